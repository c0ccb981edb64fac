// Package cgroup tells what the control group that this process is in may use,
// and what became of that: its memory limit, how often the kernel's
// out-of-memory killer struck, how often its processors were taken away. It
// reads cgroup v2, v1 and both side by side (cgroups(7), and the kernel's
// Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/).
//
// Everything is optional: where a file is missing, nothing is known of it.
package cgroup

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Group is a control group. Its methods read the files anew each time and may be
// called from any goroutine.
type Group struct {
	memory, cpu dir
}

// dir is a group in one hierarchy.
type dir struct {
	path string // empty: it cannot be seen
	top  string // the mount: the groups above that are not visible
	v1   bool
}

// Own finds the group of the calling process by the files below root, which is
// "/" but in tests.
func Own(root string) *Group {
	groups, err := os.ReadFile(path.Join(root, "proc/self/cgroup"))
	if err != nil {
		return &Group{}
	}
	mounts, err := os.ReadFile(path.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return &Group{}
	}
	f := finder{root, string(groups), string(mounts)}
	return &Group{
		memory: f.find("memory", "memory.oom_control", "memory.events"),
		cpu:    f.find("cpu", "cpu.stat", "cpu.stat"),
	}
}

type finder struct{ root, groups, mounts string }

// find looks for the group that a controller keeps: the one in which there is the
// file v1 or, if no hierarchy of version 1 has the controller, v2.
func (f finder) find(controller, v1, v2 string) dir {
	unified := ""
	for line := range strings.Lines(f.groups) {
		// "4:cpu,cpuacct:/docker/abc", or "0::/docker/abc" of version 2.
		id, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		switch {
		case isIn(controller, controllers):
			if d := f.visible("cgroup", controller, group, v1); d.path != "" {
				d.v1 = true
				return d
			}
		case id == "0" && controllers == "":
			unified = group
		}
	}
	if unified == "" {
		return dir{}
	}
	return f.visible("cgroup2", "", unified, v2)
}

// visible finds the group in the mounts of a hierarchy, see proc_pid_mountinfo(5).
// A mount may show a part of the hierarchy only, as Docker's and the kubelet's
// bind mounts do with version 1: then its root is the group itself, or one above
// it. Where the names do not fit together (the mount was made outside of the
// process's cgroup namespace, see cgroup_namespaces(7)) the mount shows the
// container's own group.
func (f finder) visible(kind, controller, group, file string) dir {
	for line := range strings.Lines(f.mounts) {
		head, tail, found := strings.Cut(line, " - ")
		at, fs := strings.Fields(head), strings.Fields(tail)
		if !found || len(at) < 5 || len(fs) < 3 || fs[0] != kind || controller != "" && !isIn(controller, fs[2]) {
			continue
		}
		top := path.Join(f.root, unescape.Replace(at[4]))
		for _, below := range []string{relative(group, unescape.Replace(at[3])), "/"} {
			d := dir{path: path.Join(top, below), top: top}
			if _, err := os.Stat(path.Join(d.path, file)); err == nil {
				return d
			}
		}
	}
	return dir{}
}

// unescape reads what proc_pid_mountinfo(5) writes in octal.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// relative is the group seen from another one that is above it, or else as it is.
func relative(group, above string) string {
	if rest, ok := strings.CutPrefix(group, strings.TrimSuffix(above, "/")+"/"); ok {
		return rest
	}
	if group == above {
		return "/"
	}
	return group
}

// isIn tells whether a list with commas has the word.
func isIn(word, list string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// noLimit is less than what version 1 shows where there is no limit: the
// largest number of bytes that is a whole number of pages.
const noLimit = 1 << 62

// MemoryLimit is how many bytes of memory the group may use: the least limit of
// it and of all groups above it that can be seen. ok is false where there is none.
func (g *Group) MemoryLimit() (bytes int64, ok bool) {
	least := uint64(noLimit)
	file := "memory.max" // "max": no limit
	if g.memory.v1 {
		file = "memory.limit_in_bytes"
		// It takes account of groups that are out of sight, too.
		if n, ok := g.memory.field("memory.stat", "hierarchical_memory_limit"); ok {
			least = min(least, n)
		}
	}
	for d := range g.memory.upwards {
		if n, ok := d.number(file); ok {
			least = min(least, n)
		}
	}
	if least == noLimit {
		return 0, false
	}
	return int64(least), true
}

// MemoryUsed is how many bytes of memory the group uses, the page cache included.
func (g *Group) MemoryUsed() (bytes int64, ok bool) {
	file := "memory.current"
	if g.memory.v1 {
		file = "memory.usage_in_bytes"
	}
	n, ok := g.memory.number(file)
	return int64(n), ok
}

// WorkingSet is MemoryUsed without the part of the page cache that the kernel gives
// up first: what the kubelet, too, takes for used
// (https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/).
func (g *Group) WorkingSet() (bytes int64, ok bool) {
	name := "inactive_file"
	if g.memory.v1 {
		name = "total_inactive_file"
	}
	used, ok := g.MemoryUsed()
	inactive, _ := g.memory.field("memory.stat", name)
	return max(used-int64(inactive), 0), ok
}

// OOMKills is how many processes of the group the kernel's out-of-memory killer
// has killed, for whatever group's limit or for the machine's want of memory. The
// kernel counts before it kills. There is no such counter in the root of the
// hierarchy, and in version 1 since Linux 4.13 only.
//
// Of version 2 it is memory.events, which counts for the groups below, too, where
// an app may have moved itself; memory.events.local (Linux 5.2) would not.
func (g *Group) OOMKills() (n uint64, ok bool) {
	if g.memory.v1 {
		return g.memory.field("memory.oom_control", "oom_kill")
	}
	return g.memory.field("memory.events", "oom_kill")
}

// KillsWhole tells whether an out-of-memory kill ends every process of the group:
// memory.oom.group of version 2, of the group or of one above it.
func (g *Group) KillsWhole() bool {
	if g.memory.v1 {
		return false
	}
	for d := range g.memory.upwards {
		if n, ok := d.number("memory.oom.group"); ok && n == 1 {
			return true
		}
	}
	return false
}

// CPULimit is how many processors the group may use, of which the last may be a
// part of one: the least limit of it and of all groups above it that can be seen.
// ok is false where there is none.
func (g *Group) CPULimit() (processors float64, ok bool) {
	for d := range g.cpu.upwards {
		if n, limited := d.processors(); limited && (!ok || n < processors) {
			processors, ok = n, true
		}
	}
	return processors, ok
}

// Throttling is how often the group used up its share of the processors, each
// count since the group was made.
type Throttling struct {
	Periods   uint64        // in which anything ran
	Throttled uint64        // of these, in which the share was used up
	Time      time.Duration // for which processes had to wait, added up over the processors
}

// Since is what was added since an earlier moment.
func (t Throttling) Since(before Throttling) Throttling {
	return Throttling{t.Periods - before.Periods, t.Throttled - before.Throttled, t.Time - before.Time}
}

// Throttling gives the counts; ok is false where the processors have no limit that
// is counted.
func (g *Group) Throttling() (t Throttling, ok bool) {
	name, unit := "throttled_usec", time.Microsecond
	if g.cpu.v1 {
		name, unit = "throttled_time", time.Nanosecond
	}
	text, err := g.cpu.read("cpu.stat")
	if err != nil {
		return Throttling{}, false
	}
	var duration uint64
	for _, f := range []struct {
		name string
		into *uint64
	}{{"nr_periods", &t.Periods}, {"nr_throttled", &t.Throttled}, {name, &duration}} {
		if *f.into, ok = field(text, f.name); !ok {
			return Throttling{}, false
		}
	}
	t.Time = time.Duration(duration) * unit
	return t, true
}

// upwards yields the group and all above it that can be seen.
func (d dir) upwards(yield func(dir) bool) {
	for d.path != "" && yield(d) && d.path != d.top {
		d.path = path.Dir(d.path)
	}
}

// processors is the group's own share: the time that it may use in each period.
func (d dir) processors() (n float64, limited bool) {
	var quota, period uint64
	if d.v1 {
		quota, limited = d.number("cpu.cfs_quota_us") // -1: no limit
		period, _ = d.number("cpu.cfs_period_us")
	} else {
		text, _ := d.read("cpu.max") // "max 100000": no limit
		read, _ := fmt.Sscan(text, &quota, &period)
		limited = read == 2
	}
	if !limited || period == 0 {
		return 0, false
	}
	return float64(quota) / float64(period), true
}

// number reads a file that holds one number.
func (d dir) number(file string) (uint64, bool) {
	text, err := d.read(file)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	return n, err == nil
}

// field reads a number from a file of lines "name number".
func (d dir) field(file, name string) (uint64, bool) {
	text, err := d.read(file)
	if err != nil {
		return 0, false
	}
	return field(text, name)
}

func field(text, name string) (uint64, bool) {
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// read gives what a file holds. The kernel waits for nothing here, so package os,
// which has the runtime's poller look after each file, would only take longer: the
// app is dead meanwhile.
func (d dir) read(file string) (string, error) {
	if d.path == "" {
		return "", fs.ErrNotExist
	}
	fd, err := again(func() (int, error) { return unix.Open(path.Join(d.path, file), unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var text []byte
	for {
		var piece [4096]byte
		n, err := again(func() (int, error) { return unix.Read(fd, piece[:]) })
		if n <= 0 || err != nil {
			return string(text), err
		}
		text = append(text, piece[:n]...)
	}
}

// again makes a call until no signal interrupts it.
func again(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); err != unix.EINTR {
			return n, err
		}
	}
}
