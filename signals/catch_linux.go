//go:build amd64 || arm64

package signals

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// reportsSize is the capacity that the pipe of reports asks for: 2048 of
	// them can wait for a slow reader.
	reportsSize = 2048 * siginfoSize
	siginfoSize = 128

	sigIgnore = 1 // SIG_IGN
	noStops   = 1 // SA_NOCLDSTOP: no SIGCHLD for a child that is stopped

	// The values of si_code with which the kernel gives si_pid and si_uid.
	siUser  = 0
	siQueue = -1
	siMesgQ = -3
	siTkill = -6

	// sendToGroup is PIDFD_SIGNAL_PROCESS_GROUP of pidfd_send_signal(2). Before
	// Linux 6.9 it is refused, and the report says that nothing was sent.
	sendToGroup = 1 << 2
)

// handlerState is what the handler works with; the assembly knows its layout.
// Everything but the atomics is written before the handler is installed.
type handlerState struct {
	pid      int64 // of the process that catches
	reports  int64 // a pipe: one siginfo a signal
	children int64 // an eventfd: SIGCHLD
	one      int64 // what is added to it
	// target is one descriptor for ever: SetTarget exchanges, atomically, the
	// open file behind it. A pidfd never means another process that got the same
	// pid, so the handler cannot signal a stranger. The eventfd stands there for
	// nobody: being no pidfd, it makes the send fail.
	target    int64
	sendFlags int64
	// skipKernel is 1 when what the kernel sent is not sent on.
	skipKernel int64
	direct     [65]uint8
	// fault is the Go runtime's handler of those signals by which the kernel
	// reports a fault in this program; 0: no such signal.
	fault [65]uintptr

	// sending counts the sends of each signal that have begun and are not yet
	// accounted for in sent, which is a Set.
	sending [65]atomic.Int32
	sent    atomic.Uint64
	lost    atomic.Uint64
	// missed is a Set: signals that were neither sent nor reported, since the pipe
	// was full. The eventfd tells of them.
	missed atomic.Uint64

	defaultAction action //nolint:unused // by the assembly; all zero is SIG_DFL
}

// action is the kernel's struct sigaction.
type action struct {
	handler  uintptr
	flags    uintptr
	restorer uintptr
	mask     uint64
}

var handler handlerState

// handlerPC gives the address of the handler.
func handlerPC() uintptr

// Catcher receives the signals of this process.
type Catcher struct {
	signals  chan Received
	children chan struct{}
	done     chan struct{}
	routines sync.WaitGroup

	reports     *os.File
	childEvents *os.File
	fds         []int             // what the handler writes to and the target's slot
	previous    [rtMax + 1]action // of the caught signals
	caught      Set
}

// Catch begins to catch every signal but KILL, STOP, URG, 32 and 33, those of
// o.Default, and those that this process inherited as ignored, as under nohup(1):
// the Go runtime keeps that of HUP and INT alone. CHLD is always caught. There
// can be one Catcher at a time, and nothing else may use os/signal meanwhile.
//
// It also changes what Go itself does:
//
//   - A write to a broken standard output or error gives EPIPE, as any other
//     write does, and does not end the process. The SIGPIPE or SIGXFSZ that
//     accompanies a failed write of this process is not reported.
//   - A fault signal that a process sent ("kill -SEGV 1") is reported and no
//     more, where the Go runtime would end the process. Real faults are the
//     runtime's as ever.
//   - The CPU profiler gets no SIGPROF, and with GOTRACEBACK=crash the runtime
//     cannot ask threads for their stacks, which it does by SIGQUIT.
func Catch(o Options) (*Catcher, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if !catching.CompareAndSwap(false, true) {
		return nil, errCatching
	}
	c := &Catcher{
		signals:  make(chan Received, 64),
		children: make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
	if err := c.start(o); err != nil {
		c.Close()
		return nil, fmt.Errorf("cannot catch signals: %w", err)
	}
	return c, nil
}

func (c *Catcher) start(o Options) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	c.reports = os.NewFile(uintptr(pipe[0]), "signals")
	c.fds = append(c.fds, pipe[1])
	// A user near its limit of pipe memory keeps the default size: 512 reports.
	_, _ = unix.FcntlInt(uintptr(pipe[1]), unix.F_SETPIPE_SZ, reportsSize)

	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	c.childEvents = os.NewFile(uintptr(event), "children")
	target, err := unix.FcntlInt(uintptr(event), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("dup: %w", err)
	}
	c.fds = append(c.fds, target)

	h := &handler
	h.pid, h.one = int64(os.Getpid()), 1
	h.reports, h.children, h.target = int64(pipe[1]), int64(event), int64(target)
	h.direct = o.Direct
	h.sendFlags, h.skipKernel = 0, 0
	if o.Group {
		h.sendFlags = sendToGroup
	}
	if o.SharedTerminal {
		h.skipKernel = 1
	}
	h.sent.Store(0)
	h.lost.Store(0)
	h.missed.Store(0)

	if err := c.install(o.Default); err != nil {
		return err
	}
	if err := c.unblock(); err != nil {
		return err
	}
	c.routines.Go(c.readReports)
	c.routines.Go(c.readChildEvents)
	return nil
}

// install puts the handler in the place of the present ones.
func (c *Catcher) install(keep Set) error {
	// os.File ends the process when a write to standard output or error breaks,
	// unless Go knows SIGPIPE as ignored; see the end of os/signal's "SIGPIPE".
	signal.Ignore(unix.SIGPIPE)

	// The runtime's own handlers have what Go needs (SA_ONSTACK, SA_RESTART) and
	// the architecture wants (a restorer on amd64): ours differ in the address.
	ours, err := swapAction(unix.SIGSEGV, nil)
	if err != nil {
		return err
	}
	ours.handler = handlerPC()
	ours.mask = ^uint64(0)

	for _, s := range All() {
		switch s {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGURG, 32, 33:
			continue
		}
		if keep.Has(s) && s != unix.SIGCHLD {
			continue
		}
		previous, err := swapAction(s, nil)
		if err != nil {
			return err
		}
		if previous.handler == sigIgnore && s != unix.SIGCHLD && s != unix.SIGPIPE {
			continue
		}
		action := ours
		if s == unix.SIGCHLD {
			action.flags |= noStops
		}
		if isFault(s) {
			handler.fault[s] = previous.handler
		}
		if _, err := swapAction(s, &action); err != nil {
			return err
		}
		c.previous[s] = previous
		c.caught = c.caught.With(s)
	}
	return nil
}

// swapAction sets the action of a signal, unless it is nil, and gives the one
// before.
func swapAction(s syscall.Signal, to *action) (action, error) {
	var previous action
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s),
		uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(&previous)), unsafe.Sizeof(previous.mask), 0, 0)
	if errno != 0 {
		return action{}, fmt.Errorf("sigaction of %s: %w", Name(s), errno)
	}
	return previous, nil
}

// unblock makes the caught signals arrive that this process inherited as
// blocked: the Go runtime keeps most of them blocked in its threads, and in the
// processes it starts. One thread takes them for all; mostly none is needed.
func (c *Catcher) unblock() error {
	var inherited unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &inherited); err != nil {
		return fmt.Errorf("sigprocmask: %w", err)
	}
	blocked := Set(inherited.Val[0]) & c.caught
	if blocked == 0 {
		return nil
	}
	c.routines.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var mask unix.Sigset_t
		mask.Val[0] = uint64(blocked)
		_ = unix.PthreadSigmask(unix.SIG_UNBLOCK, &mask, nil)
		<-c.done
		_ = unix.PthreadSigmask(unix.SIG_BLOCK, &mask, nil)
	})
	return nil
}

// Both readers wait in the runtime's poller. The thread that it wakes also runs
// whoever receives from the channel: a blocking read needs one more thread.

func (c *Catcher) readReports() {
	var batch [32 * siginfoSize]byte
	for {
		n, err := c.reports.Read(batch[:])
		if err != nil {
			return // closed
		}
		for info := range slices.Chunk(batch[:n], siginfoSize) {
			select {
			case c.signals <- received(info):
			case <-c.done:
				return
			}
		}
	}
}

// received reads a siginfo as the handler left it, see sigaction(2).
func received(info []byte) Received {
	field := func(offset int) int32 { return int32(binary.NativeEndian.Uint32(info[offset:])) }
	r := Received{
		Signal:    syscall.Signal(field(0)),
		Forwarded: field(4) != 0, // si_errno has no use in Linux
		Code:      field(8),
	}
	switch r.Code {
	case siUser, siQueue, siMesgQ, siTkill:
		r.PID, r.UID = int(field(16)), int(uint32(field(20)))
	}
	return r
}

func (c *Catcher) readChildEvents() {
	var count [8]byte
	for {
		if _, err := c.childEvents.Read(count[:]); err != nil {
			return // closed
		}
		select {
		case c.children <- struct{}{}:
		default: // a token that nobody has taken yet stands for this one too
		}
		for _, s := range Set(handler.missed.Swap(0)).Signals() {
			select {
			case c.signals <- Received{Signal: s}:
			case <-c.done:
				return
			}
		}
	}
}

// Signals gives what arrives. Two that arrive at once can be handled by two
// threads, and so change places. A slow receiver loses nothing until the pipe
// behind it is full: see Lost.
func (c *Catcher) Signals() <-chan Received { return c.signals }

// Children gives a token when children have died since the last token was taken,
// however many: whoever takes one then reaps all there are.
func (c *Catcher) Children() <-chan struct{} { return c.children }

// SetTarget makes the process of a pidfd the one that the handler sends to; -1:
// nobody. The caller may close pidfd afterwards. A handler that runs at this
// moment may still send to the process before.
func (c *Catcher) SetTarget(pidfd int) error {
	if pidfd < 0 {
		pidfd = int(handler.children) // no pidfd: the send fails
	}
	if err := unix.Dup3(pidfd, int(handler.target), unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("cannot send signals to pidfd %d: dup3: %w", pidfd, err)
	}
	return nil
}

// JustForwarded tells whether the handler has sent s, as it is after rewriting,
// to a target since this was last asked of s.
//
// It is exact for a target that has been reaped: had its death been caused by
// the handler, the send had begun, and this waits until what has begun is known
// to have succeeded or failed.
func (c *Catcher) JustForwarded(s syscall.Signal) bool {
	if bit(s) == 0 {
		return false
	}
	for handler.sending[s].Load() != 0 {
		runtime.Gosched() // for one system call of another thread
	}
	return Set(handler.sent.And(^uint64(bit(s)))).Has(s)
}

// Lost is how many signals arrived and found the pipe full. Those that the handler
// sent on are not reported; of the others each signal is, once and without its
// sender, so that no stop is missed.
func (c *Catcher) Lost() uint64 { return handler.lost.Load() }

// Close gives the signals back to whom they belonged before, Go's runtime; but
// Go goes on ignoring SIGPIPE. It is for tests: a handler that still runs on
// another thread would write to a closed descriptor.
func (c *Catcher) Close() {
	for _, s := range c.caught.Signals() {
		_, _ = swapAction(s, &c.previous[s])
	}
	close(c.done)
	for _, f := range []*os.File{c.reports, c.childEvents} {
		if f != nil {
			f.Close()
		}
	}
	c.routines.Wait()
	for _, fd := range c.fds {
		unix.Close(fd)
	}
	catching.Store(false)
}
