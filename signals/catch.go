package signals

import "syscall"

// Received is a signal that arrived.
type Received struct {
	Signal syscall.Signal
	// Code is its si_code, see sigaction(2): 0 (SI_USER) for kill(2), -1
	// (SI_QUEUE) for sigqueue(3), above 0 for the kernel. Always 0 where
	// os/signal is used.
	Code int32
	// PID and UID are the sender's; PID is 0 for the kernel and for a sender
	// outside the PID namespace. What sigqueue sends can claim any.
	PID, UID int
	// Forwarded says that the handler has already sent it on to the target.
	Forwarded bool
}

// FromKernel tells whether the kernel sent it by itself: the terminal's ^C, a
// timer that ran out.
func (r Received) FromKernel() bool { return r.Code > 0 }

// Options says what is done with which signal.
type Options struct {
	// Direct[n] is what the handler itself sends to the target when signal n
	// arrives; 0: it is only reported.
	Direct [65]uint8
	// Default are signals that are not caught: job control with a shared
	// terminal (TSTP, TTIN, TTOU, CONT) keeps its default action.
	Default Set
	// Group has the handler signal the target's process group.
	Group bool
	// SharedTerminal says that the target is in the terminal's foreground group
	// together with this process: what the kernel sends to that group has
	// reached the target too, and is not sent a second time.
	SharedTerminal bool
}
