package reaper

import (
	"bytes"
	"os"
	"path"
	"strconv"
	"strings"
)

// OOMKills is how many processes of evermore's own cgroup, in which the app is
// too, the kernel's out-of-memory killer has killed: oom_kill of memory.events
// (cgroup v2) or of memory.oom_control (v1, since Linux 4.13). ok is false where
// there is no such counter, as in the root of the hierarchy.
func (r *Reaper) OOMKills() (n uint64, ok bool) {
	r.oomOnce.Do(func() { r.oomFile = findOOMFile("/") })
	if r.oomFile == "" {
		return 0, false
	}
	return readOOMKills(r.oomFile)
}

func readOOMKills(file string) (n uint64, ok bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "oom_kill "); found {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// findOOMFile finds the counter below root, which is "/" but in tests; empty:
// there is none.
func findOOMFile(root string) string {
	cgroups, err := os.ReadFile(path.Join(root, "proc/self/cgroup"))
	if err != nil {
		return ""
	}
	mounts, err := os.ReadFile(path.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return ""
	}
	// Hybrid hierarchies have the memory controller in v1: it is looked at first.
	for line := range strings.Lines(string(cgroups)) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		for controller := range strings.SplitSeq(controllers, ",") {
			var name string
			switch {
			case controller == "memory":
				name = "memory.oom_control"
			case id == "0" && controllers == "":
				name = "memory.events"
			default:
				continue
			}
			if file := inHierarchy(root, mounts, controller, group, name); file != "" {
				return file
			}
		}
	}
	return ""
}

// inHierarchy finds a file of the group in the mounts of a hierarchy, see
// cgroups(7) and proc_pid_mountinfo(5). In a container the mount may show the
// group as its root, whatever its name outside.
func inHierarchy(root string, mounts []byte, controller, group, name string) string {
	for line := range bytes.Lines(mounts) {
		head, tail, found := strings.Cut(string(line), " - ")
		at, kind := strings.Fields(head), strings.Fields(tail)
		if !found || len(at) < 5 || len(kind) < 3 {
			continue
		}
		v2 := controller == "" && kind[0] == "cgroup2"
		v1 := controller != "" && kind[0] == "cgroup" && contains(kind[2], controller)
		if !v1 && !v2 {
			continue
		}
		below := group
		if rest, ok := strings.CutPrefix(group, at[3]); ok && at[3] != "/" {
			below = rest
		}
		for _, dir := range []string{below, "/"} {
			file := path.Join(root, at[4], dir, name)
			if _, err := os.Stat(file); err == nil {
				return file
			}
		}
	}
	return ""
}

// contains tells whether a list with commas has the word.
func contains(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}
