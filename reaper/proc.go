package reaper

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"
)

// stat is what proc_pid_stat(5) tells of a process.
type stat struct {
	pid   int
	name  string
	state byte
	ppid  int
	pgrp  int
	start uint64 // in clock ticks since boot: with the pid, it names one process for good
}

var errStat = errors.New("unreadable stat")

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat reads the fields behind the name, which is in parentheses and may
// hold spaces and parentheses itself.
func parseStat(b []byte) (stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return stat{}, errStat
	}
	f := bytes.Fields(b[end+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, errStat
	}
	st := stat{name: string(b[open+1 : end]), state: f[0][0]}
	var errs [4]error
	st.pid, errs[0] = strconv.Atoi(string(bytes.TrimSpace(b[:open])))
	st.ppid, errs[1] = strconv.Atoi(string(f[1]))
	st.pgrp, errs[2] = strconv.Atoi(string(f[2]))
	st.start, errs[3] = strconv.ParseUint(string(f[19]), 10, 64)
	for _, err := range errs {
		if err != nil {
			return stat{}, errStat
		}
	}
	return st, nil
}

// dead says that only the entry in the process table is left.
func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' }

// processes gives every process, dead ones included. What it gives is old when it
// is used: whoever acts on it checks the start time.
func processes() map[int]stat {
	all := make(map[int]stat)
	proc, err := os.Open("/proc")
	if err != nil {
		return all
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil {
			all[pid] = st
		}
	}
	return all
}

// descendants gives every process below the given one.
func descendants(of int) map[int]stat {
	all := processes()
	below := make(map[int]stat)
	for pid, st := range all {
		// The chain of parents is short; its length is bounded against a
		// picture that changed while it was taken.
		for up, n := st.ppid, 0; up > 0 && n < 1024; n++ {
			if up == of {
				below[pid] = st
				break
			}
			up = all[up].ppid
		}
	}
	return below
}

// Below tells whether the process is a descendant of the other one.
func Below(pid, of int) bool {
	st, err := readStat(pid)
	if err != nil {
		return false
	}
	_, below := Ancestor(st.ppid, func(pid int) bool { return pid == of })
	return below
}

// Ancestor gives the process that is wanted: that of the pid, or else the nearest
// one above it.
func Ancestor(pid int, wanted func(pid int) bool) (ancestor int, ok bool) {
	for n := 0; pid > 0 && n < 1024; n++ {
		if wanted(pid) {
			return pid, true
		}
		st, err := readStat(pid)
		if err != nil {
			return 0, false
		}
		pid = st.ppid
	}
	return 0, false
}

// hasEnv tells whether the environment that the process was executed with holds
// the entry "NAME=value". user, when not nil, is tried where the caller itself
// may not look: the kernel lets equal users look at each other, while a root
// without CAP_SYS_PTRACE, as containers have it, may not look at anybody.
func hasEnv(pid int, entry string, user *syscall.Credential) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if errors.Is(err, fs.ErrPermission) && user != nil {
		asUser(user, func() { env, err = os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ") })
	}
	if err != nil {
		return false
	}
	for _, e := range bytes.Split(env, []byte{0}) {
		if string(e) == entry {
			return true
		}
	}
	return false
}
