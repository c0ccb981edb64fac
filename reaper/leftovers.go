package reaper

import (
	"encoding/hex"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// RunID is the variable that marks a run in the environment of its processes, as
// systemd's INVOCATION_ID does: 128 random bits in hexadecimal. They are no secret.
const RunID = "EVERMORE_RUN_ID"

// markLength is that of Reaper.Mark.
const markLength = 16

func random64() string {
	var b [8]byte
	_, _ = unix.Getrandom(b[:], 0) // it does not fail for so few (getrandom(2))
	return hex.EncodeToString(b[:])
}

// withoutRunID copies an environment without the mark of a run above: an
// evermore below another one marks its runs by itself.
func withoutRunID(env []string) []string {
	out := make([]string, 0, len(env)+1)
	for _, e := range env {
		if !strings.HasPrefix(e, RunID+"=") {
			out = append(out, e)
		}
	}
	return out
}

// Leftover is a process that outlived the process whose run it belongs to.
type Leftover struct {
	PID   int
	Name  string
	start uint64
}

// Leftovers gives the living processes of a run whose first process p is dead:
// the rest of its process group, and descendants that carry the run's id in
// their environment, whatever group, session or parent they have by now. A
// descendant without that mark is not the run's (kubectl exec's orphans land
// below PID 1 too).
func (r *Reaper) Leftovers(p *Process) []Leftover {
	above := os.Getpid()
	switch {
	case p.adopted && p.mark == "":
		return nil
	case p.adopted:
		above = 1 // its orphans went past this process, which is among those below
	case !r.HasChildren():
		return nil
	}
	var left []Leftover
	for pid, st := range descendants(above) {
		if st.dead() || pid == os.Getpid() {
			continue
		}
		if p.ownGroup && !p.adopted && st.pgrp == p.pid || hasEnv(pid, p.mark, p.user) {
			left = append(left, Leftover{PID: pid, Name: st.name, start: st.start})
		}
	}
	return left
}

// Alive tells whether the process, and not another one with its pid, is there
// and not a zombie.
func (l Leftover) Alive() bool {
	st, err := readStat(l.PID)
	return err == nil && st.start == l.start && !st.dead()
}

// Signal sends the signal to the process; ErrGone when it is there no more. A
// pid that now means another process is not signalled: a pidfd is taken first
// and the start time compared behind it. Before Linux 5.3 a moment between the
// comparison and the signal remains.
func (l Leftover) Signal(s syscall.Signal) error {
	fd, err := unix.PidfdOpen(l.PID, 0)
	if err == nil {
		defer unix.Close(fd)
	}
	if !l.Alive() {
		return ErrGone
	}
	if err == nil {
		err = unix.PidfdSendSignal(fd, s, nil, 0)
	}
	if err != nil {
		err = unix.Kill(l.PID, s)
	}
	if err == unix.ESRCH {
		return ErrGone
	}
	return err
}

// Zombie is a dead process whose living parent has not reaped it.
type Zombie struct {
	PID        int
	ParentPID  int
	ParentName string
	start      uint64
}

// Zombies gives the zombies among the descendants that have a living parent
// other than the caller. It may find some that their parent is just about to
// reap: only one that is found twice, some time apart, is neglected.
func (r *Reaper) Zombies() []Zombie {
	if !r.HasChildren() {
		return nil
	}
	self := os.Getpid()
	var found []Zombie
	all := descendants(self)
	for pid, st := range all {
		if parent, ok := all[st.ppid]; ok && st.dead() && !parent.dead() {
			found = append(found, Zombie{PID: pid, ParentPID: st.ppid, ParentName: parent.name, start: st.start})
		}
	}
	return found
}
