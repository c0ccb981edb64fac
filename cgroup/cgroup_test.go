package cgroup

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// tree writes files below a folder that plays the root.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const (
	v2Mount     = "30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	v1Mount     = "31 20 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
	v1CPUMount  = "32 20 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
	v1Container = "31 20 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
	hybrid      = "29 20 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" + v1Mount
	other       = "22 27 0:21 / /proc rw,relatime - proc proc rw\nbroken line\n"
)

// Where the group is found: there its counter stands at 7.
func TestOwn(t *testing.T) {
	const (
		count   = "low 0\noom 9\noom_kill 7\noom_group_kill 0\n"
		countV1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"
	)
	for _, c := range []struct {
		name, cgroup, mounts, file, text string
		found                            bool
	}{
		{"v2 on a host", "0::/system.slice/app.service\n", other + v2Mount, "sys/fs/cgroup/system.slice/app.service/memory.events", count, true},
		{"v2 in a container with a namespace", "0::/\n", v2Mount, "sys/fs/cgroup/memory.events", count, true},
		{"v2 in a container without one", "0::/docker/abc\n", v2Mount, "sys/fs/cgroup/memory.events", count, true},
		{"v2, mounted outside of the namespace", "0::/\n", "30 20 0:26 /../../kubepods/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "sys/fs/cgroup/memory.events", count, true},
		{"v2 at a path with a space", "0::/a b\n", "30 20 0:26 / /cgroup\\040two rw - cgroup2 cgroup2 rw\n", "cgroup two/a b/memory.events", count, true},
		{"v1 on a host", "5:cpu,cpuacct:/x\n4:memory:/user\n1:name=systemd:/\n", v1Mount, "sys/fs/cgroup/memory/user/memory.oom_control", countV1, true},
		{"v1 in a container", "4:memory:/docker/abc\n", v1Container, "sys/fs/cgroup/memory/memory.oom_control", countV1, true},
		{"v1 below a container's group", "4:memory:/docker/abc/sub\n", v1Container, "sys/fs/cgroup/memory/sub/memory.oom_control", countV1, true},
		{"v1 beside a group whose name is the beginning", "4:memory:/docker/abcdef\n", v1Container, "sys/fs/cgroup/memory/def/memory.oom_control", countV1, false},
		{"v1 with the group at the root of the mount", "4:memory:/docker/abc\n", v1Mount, "sys/fs/cgroup/memory/memory.oom_control", countV1, true},
		{"hybrid", "4:memory:/app\n0::/app\n", hybrid, "sys/fs/cgroup/memory/app/memory.oom_control", countV1, true},
		{"v2, where v1 has no mount", "4:memory:/app\n0::/app\n", v2Mount, "sys/fs/cgroup/app/memory.events", count, true},
		{"the root group of v2 has none", "0::/\n", v2Mount, "sys/fs/cgroup/other", count, false},
		{"no mount", "0::/\n", other, "sys/fs/cgroup/memory.events", count, false},
		{"a counter that is none", "0::/\n", v2Mount, "sys/fs/cgroup/memory.events", "oom_kill many\n", false},
		{"before Linux 4.13", "4:memory:/docker/abc\n", v1Container, "sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", false},
	} {
		g := Own(tree(t, map[string]string{"proc/self/cgroup": c.cgroup, "proc/self/mountinfo": c.mounts, c.file: c.text}))
		if n, ok := g.OOMKills(); ok != c.found || ok && n != 7 {
			t.Errorf("%s: %d kills, %v", c.name, n, ok)
		}
	}
}

func TestMemory(t *testing.T) {
	const nearly = "9223372036854771712\n"
	for _, c := range []struct {
		name, cgroup, mounts string
		files                map[string]string
		limit, used          int64 // 0: none
	}{
		{"v2", "0::/a/b\n", v2Mount, map[string]string{
			"a/b/memory.events": "", "a/b/memory.max": "134217728\n", "a/b/memory.current": "4096\n",
		}, 128 << 20, 4096},
		{"v2 without a limit", "0::/a\n", v2Mount, map[string]string{"a/memory.events": "", "a/memory.max": "max\n"}, 0, 0},
		{"v2, limited above", "0::/pod/app\n", v2Mount, map[string]string{
			"pod/app/memory.events": "", "pod/app/memory.max": "max\n", "pod/memory.max": "2048\n",
		}, 2048, 0},
		{"v2, limited more above", "0::/pod/app\n", v2Mount, map[string]string{
			"pod/app/memory.events": "", "pod/app/memory.max": "4096\n", "pod/memory.max": "2048\n", "memory.max": "8192\n",
		}, 2048, 0},
		{"v1", "4:memory:/docker/abc\n", v1Container, map[string]string{
			"memory/memory.oom_control": "", "memory/memory.limit_in_bytes": "1024\n", "memory/memory.usage_in_bytes": "512\n",
		}, 1024, 512},
		{"v1 without a limit", "4:memory:/docker/abc\n", v1Container, map[string]string{
			"memory/memory.oom_control": "", "memory/memory.limit_in_bytes": nearly,
			"memory/memory.stat": "cache 1\nhierarchical_memory_limit " + nearly,
		}, 0, 0},
		{"v1, limited out of sight", "4:memory:/docker/abc\n", v1Container, map[string]string{
			"memory/memory.oom_control": "", "memory/memory.limit_in_bytes": nearly,
			"memory/memory.stat": "cache 1\nhierarchical_memory_limit 2048\n",
		}, 2048, 0},
		{"nothing", "0::/a\n", v2Mount, nil, 0, 0},
	} {
		files := map[string]string{"proc/self/cgroup": c.cgroup, "proc/self/mountinfo": c.mounts}
		for name, text := range c.files {
			files["sys/fs/cgroup/"+name] = text
		}
		g := Own(tree(t, files))
		if n, ok := g.MemoryLimit(); ok != (c.limit > 0) || ok && n != c.limit {
			t.Errorf("%s: the limit is %d, %v", c.name, n, ok)
		}
		if n, ok := g.MemoryUsed(); ok != (c.used > 0) || n != c.used {
			t.Errorf("%s: used are %d, %v", c.name, n, ok)
		}
	}
}

func TestKillsWhole(t *testing.T) {
	for text, want := range map[string]bool{"0\n": false, "1\n": true, "": false} {
		files := map[string]string{
			"proc/self/cgroup": "0::/pod/app\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/pod/app/memory.events": "", "sys/fs/cgroup/pod/app/memory.oom.group": text,
		}
		if got := Own(tree(t, files)).KillsWhole(); got != want {
			t.Errorf("memory.oom.group %q: %v", text, got)
		}
		files["sys/fs/cgroup/pod/memory.oom.group"] = "1\n"
		if !Own(tree(t, files)).KillsWhole() {
			t.Errorf("memory.oom.group %q, and 1 above it: it is not seen", text)
		}
	}
}

func TestThrottling(t *testing.T) {
	want := Throttling{Periods: 100, Throttled: 30, Time: 1500 * time.Millisecond}
	for name, files := range map[string]map[string]string{
		"v2": {
			"proc/self/cgroup": "0::/app\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/app/cpu.stat": "usage_usec 1\nnr_periods 100\nnr_throttled 30\nthrottled_usec 1500000\n",
		},
		"v1": {
			"proc/self/cgroup": "5:cpu,cpuacct:/app\n0::/\n", "proc/self/mountinfo": v1CPUMount + v2Mount,
			"sys/fs/cgroup/cpu,cpuacct/app/cpu.stat": "nr_periods 100\nnr_throttled 30\nthrottled_time 1500000000\n",
		},
	} {
		if got, ok := Own(tree(t, files)).Throttling(); !ok || got != want {
			t.Errorf("%s: %+v, %v", name, got, ok)
		}
	}
	if got := want.Since(Throttling{Periods: 90, Throttled: 28, Time: time.Second}); got != (Throttling{10, 2, 500 * time.Millisecond}) {
		t.Errorf("the difference is %+v", got)
	}
	// The controller is not enabled: the file has no counts of it.
	none := map[string]string{
		"proc/self/cgroup": "0::/app\n", "proc/self/mountinfo": v2Mount, "sys/fs/cgroup/app/cpu.stat": "usage_usec 1\n",
	}
	if got, ok := Own(tree(t, none)).Throttling(); ok {
		t.Errorf("without the controller: %+v", got)
	}
}

func TestCPULimit(t *testing.T) {
	v2 := map[string]string{"proc/self/cgroup": "0::/pod/app\n", "proc/self/mountinfo": v2Mount, "sys/fs/cgroup/pod/app/cpu.stat": ""}
	v1 := map[string]string{"proc/self/cgroup": "5:cpu,cpuacct:/app\n", "proc/self/mountinfo": v1CPUMount, "sys/fs/cgroup/cpu,cpuacct/app/cpu.stat": ""}
	for name, c := range map[string]struct {
		group map[string]string
		files map[string]string
		want  float64 // 0: none
	}{
		"v2":               {v2, map[string]string{"pod/app/cpu.max": "150000 100000\n"}, 1.5},
		"v2, none":         {v2, map[string]string{"pod/app/cpu.max": "max 100000\n"}, 0},
		"v2, of the pod":   {v2, map[string]string{"pod/app/cpu.max": "400000 100000\n", "pod/cpu.max": "50000 100000\n"}, 0.5},
		"v2, not enabled":  {v2, nil, 0},
		"v2, cut off":      {v2, map[string]string{"pod/app/cpu.max": "150000"}, 0},
		"v1":               {v1, map[string]string{"cpu,cpuacct/app/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/app/cpu.cfs_period_us": "100000\n"}, 0.5},
		"v1, none":         {v1, map[string]string{"cpu,cpuacct/app/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/app/cpu.cfs_period_us": "100000\n"}, 0},
		"v1, not compiled": {v1, nil, 0},
	} {
		files := maps.Clone(c.group)
		for file, text := range c.files {
			files["sys/fs/cgroup/"+file] = text
		}
		if got, ok := Own(tree(t, files)).CPULimit(); got != c.want || ok != (c.want > 0) {
			t.Errorf("%s: %v, %v, want %v", name, got, ok, c.want)
		}
	}
}

func TestNothing(t *testing.T) {
	g := Own(t.TempDir())
	_, limit := g.MemoryLimit()
	_, used := g.MemoryUsed()
	_, kills := g.OOMKills()
	_, throttling := g.Throttling()
	_, processors := g.CPULimit()
	if limit || used || kills || throttling || processors || g.KillsWhole() {
		t.Error("something is known where there is nothing")
	}
}
