package reaper

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFindOOMFile(t *testing.T) {
	const (
		v2Mount     = "30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		v1Mount     = "31 20 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
		v1Container = "31 20 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
		hybrid      = "29 20 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" + v1Mount
		other       = "22 27 0:21 / /proc rw,relatime - proc proc rw\nbroken line\n"
		count       = "low 0\noom 9\noom_kill 7\noom_group_kill 0\n"
		countV1     = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"
	)
	for _, c := range []struct {
		name, cgroup, mounts, file, text, want string
	}{
		{"v2 on a host", "0::/system.slice/app.service\n", other + v2Mount, "sys/fs/cgroup/system.slice/app.service/memory.events", count, "same"},
		{"v2 in a container with a namespace", "0::/\n", v2Mount, "sys/fs/cgroup/memory.events", count, "same"},
		{"v2 in a container without one", "0::/docker/abc\n", v2Mount, "sys/fs/cgroup/memory.events", count, "same"},
		{"v1 on a host", "5:cpu,cpuacct:/x\n4:memory:/user\n1:name=systemd:/\n", v1Mount, "sys/fs/cgroup/memory/user/memory.oom_control", countV1, "same"},
		{"v1 in a container", "4:memory:/docker/abc/sub\n", v1Container, "sys/fs/cgroup/memory/sub/memory.oom_control", countV1, "same"},
		{"v1 with the group at the root of the mount", "4:memory:/docker/abc\n", v1Mount, "sys/fs/cgroup/memory/memory.oom_control", countV1, "same"},
		{"hybrid", "4:memory:/app\n0::/app\n", hybrid, "sys/fs/cgroup/memory/app/memory.oom_control", countV1, "same"},
		{"the root group of v2 has none", "0::/\n", v2Mount, "sys/fs/cgroup/other", count, ""},
		{"no mount", "0::/\n", other, "sys/fs/cgroup/memory.events", count, ""},
	} {
		root := t.TempDir()
		write := func(name, text string) {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write("proc/self/cgroup", c.cgroup)
		write("proc/self/mountinfo", c.mounts)
		write(c.file, c.text)
		want := ""
		if c.want == "same" {
			want = filepath.Join(root, c.file)
		}
		got := findOOMFile(root)
		if got != want {
			t.Errorf("%s: got %q, want %q", c.name, got, want)
			continue
		}
		if n, ok := readOOMKills(got); want != "" && (n != 7 || !ok) {
			t.Errorf("%s: %d kills, %v", c.name, n, ok)
		}
	}
	if got := findOOMFile(t.TempDir()); got != "" {
		t.Errorf("without /proc: %q", got)
	}
	if n, ok := readOOMKills("/proc/self/status"); ok {
		t.Errorf("%d kills in a file that counts none", n)
	}
}
