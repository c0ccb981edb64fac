package signals

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
)

// Handlers belong to a process, so one Catcher does.
var (
	catching    atomic.Bool
	errCatching = errors.New("cannot catch the signals of this process twice")
)

// Received is a signal that arrived.
type Received struct {
	Signal syscall.Signal
	// Code is its si_code, see sigaction(2): 0 (SI_USER) for kill(2), -1
	// (SI_QUEUE) for sigqueue(3), above 0 for the kernel. Always 0 where
	// os/signal is used.
	Code int32
	// PID and UID are the sender's. Both are 0 for the kernel and where os/signal
	// is used; PID is 0, too, for a sender outside this PID namespace. A sender
	// that uses rt_sigqueueinfo(2) can claim to be another.
	PID, UID int
	// Forwarded says that the handler has sent it on to the target.
	Forwarded bool
}

// FromKernel tells whether the kernel itself sent the signal, such as ^C on a
// terminal.
func (r Received) FromKernel() bool { return r.Code > 0 }

// Options says what happens to which signal.
type Options struct {
	// Direct[n] is what the handler itself sends to the target when signal n
	// arrives; 0: the signal is only reported. Only a Forwardable n can have one.
	// Where os/signal is used nothing is sent.
	Direct [65]uint8
	// Default are the signals that keep the action they have: TSTP, TTIN, TTOU
	// and CONT where a terminal is shared, so that its job control works.
	Default Set
	// Group has the handler send to the process group that the target leads.
	Group bool
	// SharedTerminal says that the target is in this process's group on a
	// terminal: what the kernel sends to the whole group is only reported, since
	// the target has got it too.
	SharedTerminal bool
}

func (o *Options) validate() error {
	for n, to := range o.Direct {
		switch s := syscall.Signal(n); {
		case to == 0:
		case !Forwardable(s):
			return fmt.Errorf("cannot forward %s: %s", Name(s), WhyNot(s))
		case to > uint8(rtMax):
			return fmt.Errorf("cannot forward %s as signal %d: signals are 1 to 64", Name(s), to)
		}
	}
	return nil
}
