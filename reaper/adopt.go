package reaper

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Adoption names a running process that has lost its supervisor.
type Adoption struct {
	PID int
	// StartTime is in clock ticks since boot, see proc_pid_stat(5): with the PID it
	// names one process for good.
	StartTime uint64
	// StartedAt is the same moment on the wall clock.
	StartedAt time.Time
	// Notify is the socket that it speaks sd_notify(3) to; empty: none.
	Notify string
}

// exitTime is how long the status of an adopted process is waited for once it is
// dead: its parent has to reap it first.
const exitTime = time.Second

// Adopt watches over a running process that this one did not start, by a pidfd,
// without interrupting it. Its exit comes out of Reap once Gone tells of it; its
// code is Unknown before Linux 6.15 (PIDFD_GET_INFO). It needs pidfd_open(2),
// Linux 5.3. ErrGone: the process is there no more.
func (r *Reaper) Adopt(a Adoption) (*Process, error) {
	fd, err := unix.PidfdOpen(a.PID, 0)
	switch {
	case err == unix.ESRCH:
		return nil, ErrGone
	case err != nil:
		return nil, fmt.Errorf("cannot watch process %d: %w", a.PID, err)
	}
	// The start time is compared behind pidfd_open: the descriptor can't mean
	// another process now.
	st, err := readStat(a.PID)
	if err != nil || st.start != a.StartTime || st.dead() {
		_ = unix.Close(fd)
		if err != nil && !ended(err) {
			return nil, fmt.Errorf("cannot tell which process %d is: %w", a.PID, err)
		}
		return nil, ErrGone
	}
	watched, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot watch process %d: %w", a.PID, err)
	}
	p := &Process{
		reaper: r, pid: a.PID, pidfd: fd, adopted: true,
		ownGroup: st.pgrp == a.PID, mark: runMark(a.PID), start: a.StartTime,
	}
	// It is not among the owned: its pid is its parent's to reap, and may be that of
	// a process of Start before its end is known here.
	go p.await(watched)
	return p, nil
}

// Gone tells that an adopted process has ended.
func (r *Reaper) Gone() <-chan struct{} { return r.gone }

// await waits for the end of an adopted process.
func (p *Process) await(fd int) {
	defer unix.Close(fd)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		// A thread that sleeps: a pidfd is readable when its process is dead.
		if n, err := unix.Poll(poll, -1); n > 0 || err != nil && err != unix.EINTR {
			break
		}
	}
	exit := Exit{PID: p.pid, At: time.Now()}
	if !exit.setZombieStatus(p.start) {
		exit.setStatus(fd)
	}
	r := p.reaper
	r.mu.Lock()
	p.close()
	r.adopted = append(r.adopted, exit)
	r.mu.Unlock()
	select {
	case r.gone <- struct{}{}:
	default:
	}
}

// setZombieStatus reads how a dead process ended that its parent has not reaped:
// field 52 of proc_pid_stat(5), which its own user and root may see.
func (e *Exit) setZombieStatus(start uint64) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(e.PID) + "/stat")
	if err != nil {
		return false
	}
	st, err := parseStat(b)
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if err != nil || st.start != start || !st.dead() || len(f) < 50 {
		return false
	}
	status, err := strconv.ParseUint(string(f[49]), 10, 32)
	if err != nil {
		return false
	}
	e.setWait(unix.WaitStatus(status))
	return true
}

func (e *Exit) setWait(status unix.WaitStatus) {
	if status.Signaled() {
		e.Signal, e.CoreDumped = status.Signal(), status.CoreDump()
		return
	}
	e.Code = status.ExitStatus()
}

// setStatus asks the kernel how the process of a pidfd ended.
func (e *Exit) setStatus(fd int) {
	pause := time.Millisecond
	for limit := time.Now().Add(exitTime); ; pause *= 2 {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		err := unix.IoctlPidfdInfo(fd, &info)
		if err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			e.setWait(unix.WaitStatus(info.Exit_code))
			return
		}
		if err != nil && !errors.Is(err, unix.ESRCH) || time.Now().After(limit) {
			e.Code, e.Unknown = 1, true
			return
		}
		time.Sleep(pause)
	}
}

// killAdopted signals an adopted process, by its pidfd: its pid is somebody
// else's to reap. The caller holds the reaper's lock.
func (p *Process) killAdopted(group bool, s syscall.Signal) error {
	const processGroup = 1 << 2 // PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9
	if group {
		err := unix.PidfdSendSignal(p.pidfd, s, nil, processGroup)
		if err != unix.EINVAL {
			return err
		}
		if err := unix.PidfdSendSignal(p.pidfd, 0, nil, 0); err != nil {
			return err
		}
		return unix.Kill(-p.pid, s)
	}
	return unix.PidfdSendSignal(p.pidfd, s, nil, 0)
}

// runMark is the entry in a process's environment that marks its run; empty: it
// has none.
func runMark(pid int) string {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return ""
	}
	for _, e := range bytes.Split(env, []byte{0}) {
		if strings.HasPrefix(string(e), RunID+"=") {
			return string(e)
		}
	}
	return ""
}

// Memory is the resident memory of the process, in bytes (proc_pid_statm(5)).
func (p *Process) Memory() (bytes int64, ok bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/statm")
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err == nil
}

// StartTime reads when a process began, in clock ticks since boot. ErrGone: it
// has ended; a zombie has, too.
func StartTime(pid int) (uint64, error) {
	st, err := readStat(pid)
	if err == nil && st.dead() || ended(err) {
		err = ErrGone
	}
	return st.start, err
}

// ended tells whether the failure to read about a process means that it is there
// no more; ESRCH: it went after the file was opened.
func ended(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// Mark is how the RunID of everything begins that this reaper starts: 64 random
// bits in hexadecimal.
func (r *Reaper) Mark() string { return r.mark }

// Survivor finds what a reaper of the mark has started last and left behind when it
// was killed: the first process of that run, which is younger than since (in clock
// ticks since boot).
func Survivor(mark string, since uint64) (Adoption, bool) {
	if all := survivors(mark, since); len(all) > 0 {
		return all[0], true
	}
	return Adoption{}, false
}

// Siblings finds what else the reaper of a process has left behind when it was
// killed: the first processes of other runs, the youngest first.
func Siblings(a Adoption) []Adoption {
	mark, ok := strings.CutPrefix(runMark(a.PID), RunID+"=")
	if !ok || len(mark) < markLength {
		return nil
	}
	return slices.DeleteFunc(survivors(mark[:markLength], 0), func(b Adoption) bool { return b.PID == a.PID })
}

// survivors gives the first processes of all runs of a reaper that are left, the
// youngest first.
func survivors(mark string, since uint64) []Adoption {
	if mark == "" {
		return nil
	}
	head := RunID + "=" + mark
	marked := map[int]stat{}
	for pid, st := range processes() {
		if !st.dead() && strings.HasPrefix(runMark(pid), head) {
			marked[pid] = st
		}
	}
	var all []Adoption
	for pid, st := range marked {
		if _, inner := marked[st.ppid]; !inner && st.start >= since && st.pgrp == pid {
			all = append(all, Adoption{PID: pid, StartTime: st.start, StartedAt: startedAt(st.start)})
		}
	}
	slices.SortFunc(all, func(a, b Adoption) int { return cmp.Compare(b.StartTime, a.StartTime) })
	return all
}

// userHZ is the unit of times in proc_pid_stat(5).
const userHZ = 100

// startedAt is a moment in clock ticks since boot on the wall clock.
func startedAt(ticks uint64) time.Time {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return time.Now()
	}
	return time.Now().Add(time.Duration(ticks)*time.Second/userHZ - time.Duration(now.Nano()))
}
