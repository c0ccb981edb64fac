// Package reaper starts processes and reaps every child, its own and adopted
// ones. It is the only caller of wait*(2) in the program: a second waiter would
// steal exits.
package reaper

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrGone is what signalling a process gives once it has been reaped: its pid
// may already be somebody else's.
var ErrGone = errors.New("the process has ended")

// batch is how many dead children one call of Reap takes: a storm of orphans
// must not keep its caller from everything else.
const batch = 512

// The values of si_code for a dead child, sigaction(2).
const (
	cldExited = 1
	cldDumped = 3
)

// Reaper starts processes and reaps all children. Its methods may be called from
// any goroutine.
type Reaper struct {
	// mu is held over a fork and its registration, so that no exit is seen
	// before its owner is known, and over looking at a dead child and reaping
	// it, so that nobody signals a pid that is free to be used again.
	mu    sync.Mutex
	owned map[int]*Process
	mark  string // how every RunID begins that it gives

	adopted []Exit        // of adopted processes, for Reap
	gone    chan struct{} // tells of them
}

// New makes the calling process a reaper of all its descendants
// (PR_SET_CHILD_SUBREAPER, prctl(2)). PID 1 is one anyway, also where a sandbox
// or an emulator does not know that call.
func New() (*Reaper, error) {
	if unix.Getpid() != 1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("cannot become a child subreaper: %w", err)
		}
	}
	return &Reaper{owned: make(map[int]*Process), mark: random64(), gone: make(chan struct{}, 1)}, nil
}

// Start starts the command, with a RunID of its own in the environment. Its exit
// comes out of Reap. The error is a *StartError.
func (r *Reaper) Start(c Command) (*Process, error) {
	if c.NoNewPrivs {
		// The bit belongs to the thread and is inherited by what the thread
		// forks: set it and fork on one thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return nil, &StartError{Name: c.Argv[0], What: "set no_new_privs for", Err: err, Exec: true}
		}
	}
	mark := RunID + "=" + r.mark + random64()
	c.Env = append(withoutRunID(c.Env), mark)
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, pidfd, err := c.start()
	if err != nil {
		return nil, err
	}
	p := &Process{reaper: r, pid: pid, pidfd: pidfd, mark: mark, ownGroup: c.OwnGroup, endGroup: c.OwnGroup && c.EndGroup, user: c.User}
	r.owned[pid] = p
	return p, nil
}

// Reaped is what one call of Reap found.
type Reaped struct {
	// Exits are those of processes that Start started.
	Exits []Exit
	// Orphans are those of other children, adopted or inherited.
	Orphans []Exit
	// More says that the call stopped at its bound and dead children are left.
	More bool
}

// Reap reaps the children that are dead, without waiting for any, and gives each
// exit exactly once. It is to be called once after SIGCHLD can be caught, and
// then after each SIGCHLD: the kernel merges them.
func (r *Reaper) Reap() Reaped {
	var out Reaped
	r.mu.Lock()
	out.Exits, r.adopted = r.adopted, nil
	r.mu.Unlock()
	for range batch {
		exit, owned, ok := r.reapOne()
		if !ok {
			return out
		}
		if owned {
			out.Exits = append(out.Exits, exit)
		} else {
			out.Orphans = append(out.Orphans, exit)
		}
	}
	out.More = true
	return out
}

// reapOne looks at a dead child before it reaps it: as long as the leader of a
// group is a zombie, its number means that group and nothing else.
func (r *Reaper) reapOne() (exit Exit, owned, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, dead, err := peek()
	for err == nil && pid != 0 && !dead {
		// A child that asked to be traced has stopped: take note, go on.
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG|unix.WALL, nil); err != nil && err != unix.EINTR {
			return Exit{}, false, false
		}
		pid, dead, err = peek()
	}
	if err != nil || pid == 0 {
		return Exit{}, false, false
	}
	p := r.owned[pid]
	if p != nil && p.endGroup {
		_ = unix.Kill(-pid, unix.SIGTERM) // ESRCH: nobody else is left
	}
	var status unix.WaitStatus
	var used unix.Rusage
	for {
		_, err = unix.Wait4(pid, &status, unix.WNOHANG|unix.WALL, &used)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return Exit{}, false, false
	}
	exit = Exit{PID: pid, At: time.Now(), PeakMemory: used.Maxrss << 10}
	if status.Signaled() {
		exit.Signal, exit.CoreDumped = status.Signal(), status.CoreDump()
	} else {
		exit.Code = status.ExitStatus()
	}
	if p != nil {
		delete(r.owned, pid)
		p.close()
	}
	return exit, p != nil, true
}

// HasChildren tells whether any child is left, alive or dead. As every
// descendant becomes a child when its parent dies, none means that nothing of
// what was started is left.
func (r *Reaper) HasChildren() bool {
	_, _, err := peek()
	return err != unix.ECHILD
}

// peek gives the pid of a dead child and leaves it unreaped; 0: none is dead.
// ECHILD: there is no child. waitid(2) also tells, unasked, of a traced child that
// has stopped; that one is not dead.
func peek() (pid int, dead bool, err error) {
	// struct siginfo of SIGCHLD, sigaction(2); si_pid is where x/sys has
	// padding.
	var info struct {
		signo, errno, code, _ int32
		pid                   int32
		_                     [27]int32
	}
	for {
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil)
		if err != unix.EINTR {
			return int(info.pid), info.code >= cldExited && info.code <= cldDumped, err
		}
	}
}

// Process is a process that Start started.
type Process struct {
	reaper   *Reaper
	pid      int
	pidfd    int
	mark     string // the entry in the environment that marks the run
	ownGroup bool
	endGroup bool
	user     *syscall.Credential
	adopted  bool
	start    uint64 // of an adopted one: clock ticks since boot
	gone     bool   // guarded by reaper.mu
}

// PID is the process's pid.
func (p *Process) PID() int { return p.pid }

// PIDFD is a descriptor of the process (pidfd_open(2)), or -1 where the kernel
// has none. It is closed when the process is reaped.
func (p *Process) PIDFD() int { return p.pidfd }

// Signal sends the signal to the process; ErrGone once it is reaped.
func (p *Process) Signal(s syscall.Signal) error { return p.kill(p.pid, s) }

// SignalGroup sends the signal to the process's group, or to the process alone
// when it shares the group of its supervisor; ErrGone once it is reaped.
func (p *Process) SignalGroup(s syscall.Signal) error {
	if !p.ownGroup {
		return p.Signal(s)
	}
	return p.kill(-p.pid, s)
}

func (p *Process) kill(pid int, s syscall.Signal) error {
	p.reaper.mu.Lock()
	defer p.reaper.mu.Unlock()
	if p.gone {
		return ErrGone
	}
	if p.adopted {
		return p.killAdopted(pid < 0, s)
	}
	return unix.Kill(pid, s)
}

// Halted tells whether the process is stopped (SIGSTOP, a debugger), so that it
// would not notice a signal before SIGCONT.
func (p *Process) Halted() bool {
	st, err := readStat(p.pid)
	return err == nil && st.state == 'T'
}

// close is called with the reaper's lock held.
func (p *Process) close() {
	p.gone = true
	if p.pidfd >= 0 {
		_ = unix.Close(p.pidfd)
	}
}
