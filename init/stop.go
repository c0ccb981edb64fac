package pid1

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"evermore/reaper"
	"evermore/signals"
)

// signalled: a signal arrived. What it means goes by the signal that arrived,
// what is sent by the rewriting.
func (a *App) signalled(r signals.Received) {
	s := r.Signal
	if s == syscall.SIGPIPE && r.PID == os.Getpid() {
		return // a connection or a pipe of evermore's own broke
	}
	to, rewritten := a.opts.Rewrite[s]
	stop := a.opts.StopSignals.Has(s)
	switch {
	case rewritten:
	case stop && a.opts.KillSignal != 0:
		to = a.opts.KillSignal
	default:
		to = s
	}
	shared := a.sharedByTerminal(r)
	if to != 0 && !a.stopping() {
		a.sentBy(to, senderOf(r, shared))
	}
	e := Event{Kind: Signalled, Signal: s, SenderPID: r.PID, SenderUID: r.UID, FromKernel: r.FromKernel(), FromTerminal: shared}
	switch {
	case !signals.Forwardable(s), rewritten && to == 0:
	case stop:
		if shared && to == s {
			e.SentAs = s
			a.emit(e)
			a.stopRequested(s, 0)
			a.stopAsked = true
			return
		}
		if a.run.process != nil && !a.stopping() && !a.drains(to) && a.opts.Link == nil {
			e.SentAs = to
		}
		a.emit(e)
		a.stopRequested(s, to)
		a.stopAsked = true
		return
	case r.Forwarded:
		a.catcher.JustForwarded(to) // it is known from here on
		a.sentAt[to] = time.Now()
		e.SentAs = to
	case shared:
		e.SentAs = s
		a.sentAt[s] = time.Now()
	case a.run.process != nil:
		a.sentAt[to] = time.Now()
		if a.send(to) {
			e.SentAs = to
		}
	}
	a.emit(e)
}

// sharedByTerminal tells whether the terminal has sent the signal to the app,
// too, as it does to its whole foreground group. A hangup it tells to the leader
// of the session alone (the kernel's tty_signal_session_leader), which evermore
// is as PID 1 of "docker run -it".
func (a *App) sharedByTerminal(r signals.Received) bool {
	if !a.opts.Terminal || !r.FromKernel() {
		return false
	}
	sid, err := unix.Getsid(0)
	return r.Signal != syscall.SIGHUP || err != nil || sid != os.Getpid()
}

// stopping says that the run has been told to end.
func (a *App) stopping() bool { return a.state == StateStopping }

// stopRequested: somebody wants the end. received is the signal that said so,
// send what the app is sent; 0: it has been told already.
func (a *App) stopRequested(received, send syscall.Signal) {
	reason := cmp.Or(a.retired, ReasonRequest)
	switch a.state {
	case StatePreparing, StateRunning:
		a.final = true
		a.because, a.cause = reason, ""
		a.endRun(received, send)
	case StateStopping:
		if !a.final && !a.snap.UnkillableSince.IsZero() {
			a.kill.set(killGrace) // nobody has waited for the end so far
		}
		a.final = true
		a.answer(a.ending())
		switch {
		case received != syscall.SIGINT:
		case !a.stopAsked && a.interrupted.IsZero():
			a.interrupted = time.Now() // the run was ended for another reason: the stop begins now
		case time.Since(a.interrupted) >= sameInterrupt:
			a.killNow() // not the same ^C, from the terminal and from what hands it on
		}
	case StateClearing:
		a.final = true
		if a.retired == "" {
			a.because = reason
		}
		a.emit(Event{Kind: Stopping, Signal: received})
	case StateBackoff:
		a.final = true
		a.emit(Event{Kind: Stopping, Signal: received})
		a.stop(a.run.exit.Status())
	case StateStopped:
		// Nobody waits for them any more.
		for _, h := range a.hooks {
			_ = h.process.SignalGroup(syscall.SIGKILL)
		}
		a.hooks = nil
	default:
		a.emit(Event{Kind: Warned, Err: fmt.Errorf("internal error: a stop in state %q", a.state)})
	}
}

// endRun tells the run to end, and sees to it that it does: at once, or where a
// stop was asked for that the app has not heard of, when it has drained.
func (a *App) endRun(received, send syscall.Signal) {
	a.state = StateStopping
	if received == syscall.SIGINT {
		a.interrupted = time.Now()
	}
	a.ready.stop()
	a.watchdog.stop()
	a.hang.stop()
	a.unlimit()
	if a.run.told = send; send == 0 {
		a.run.told = received // by the terminal
	}
	if received == 0 {
		a.sentBy(send, Sender{By: ByEvermore})
	}
	e := Event{Kind: Stopping, PID: a.run.process.PID(), Signal: received, SentAs: send, Reason: a.because, Text: a.cause}
	if a.final && a.drains(send) {
		a.unready("it is to end, and drains")
		e.Drain = a.opts.DrainWait
		a.emit(e)
		a.draining = send
		a.drain.set(a.opts.DrainWait)
		return
	}
	a.unready("it is being ended")
	a.emit(e)
	if !a.finish(send) {
		a.tellToEnd(send)
	}
}

// drains tells whether the run goes on for a while before it is sent the signal
// that is to end it.
func (a *App) drains(send syscall.Signal) bool {
	return a.opts.DrainWait > 0 && a.retired == "" && !a.run.before && send != 0 && send != syscall.SIGKILL
}

// drainElapsed: the app has gone on for long enough.
func (a *App) drainElapsed() {
	if a.state != StateStopping || a.run.process == nil {
		return
	}
	switch {
	case a.draining != 0:
		send := a.draining
		a.draining = 0
		if !a.finish(send) {
			a.emit(Event{Kind: Drained, PID: a.run.process.PID(), SentAs: send})
			a.tellToEnd(send)
		}
	case a.finishing != 0:
		a.finished()
	}
}

// tellToEnd sends the app what tells it to end, unless that is 0: it knows.
func (a *App) tellToEnd(send syscall.Signal) {
	a.snap.NotReady = "it is being ended"
	if send != 0 {
		a.send(send)
		a.wakeUp()
		a.wake.set(firstWake)
	}
	switch {
	case a.opts.KillTimeout == 0:
	case a.run.killBy.IsZero():
		a.kill.set(a.opts.KillTimeout)
	default:
		a.kill.set(max(time.Until(a.run.killBy), 0))
	}
}

// wakeUp continues an app that is stopped: else it would not notice that it is to
// end.
func (a *App) wakeUp() {
	if a.run.process.Halted() {
		a.send(syscall.SIGCONT)
	}
}

// wakeTimeElapsed: the app that was told to end may have been stopped since.
func (a *App) wakeTimeElapsed() {
	if a.state != StateStopping || a.run.process == nil || !a.snap.UnkillableSince.IsZero() {
		return
	}
	a.wakeUp()
	a.wake.set(min(2*a.wake.last, lastWake))
}

// killTimeElapsed: the run has not ended in time.
func (a *App) killTimeElapsed() {
	if a.state != StateStopping || a.run.process == nil {
		return
	}
	if a.snap.UnkillableSince.IsZero() {
		a.killNow()
		return
	}
	// Even SIGKILL did not end it: it hangs in the kernel. It is left there.
	pid := a.run.process.PID()
	a.emit(Event{Kind: Warned, PID: pid, Err: fmt.Errorf("process %d is still there %s after SIGKILL: it hangs in the kernel", pid, killGrace)})
	a.answer(fmt.Errorf("process %d survives SIGKILL: it hangs in the kernel", pid))
	if a.final {
		a.stop(128 + int(syscall.SIGKILL))
	}
}

// killNow ends the run by SIGKILL, its group with it.
func (a *App) killNow() {
	if a.run.process == nil || !a.snap.UnkillableSince.IsZero() {
		return
	}
	a.draining, a.finishing = 0, 0
	a.drain.stop()
	a.emit(Event{Kind: Killed, PID: a.run.process.PID(), Signal: syscall.SIGKILL})
	a.sentBy(syscall.SIGKILL, Sender{By: ByEvermore})
	a.snap.UnkillableSince = time.Now()
	if a.opts.KillTree || a.opts.SignalGroup {
		_ = a.run.process.SignalGroup(syscall.SIGKILL)
	}
	// The app may have left the group that it was to lead.
	a.sent(syscall.SIGKILL, a.run.process.Signal(syscall.SIGKILL))
	a.kill.set(killGrace)
}

// send sends the signal to the app, or to its group if that was asked for, and
// tells whether it was sent.
func (a *App) send(s syscall.Signal) bool {
	if a.opts.SignalGroup {
		if err := a.run.process.SignalGroup(s); !errors.Is(err, syscall.ESRCH) {
			return a.sent(s, err)
		}
		// It has left the group that it was to lead.
	}
	return a.sent(s, a.run.process.Signal(s))
}

// sent looks at the outcome of a signal that was to be sent.
func (a *App) sent(s syscall.Signal, err error) bool {
	switch {
	case err == nil:
		return true
	case errors.Is(err, reaper.ErrGone), errors.Is(err, syscall.ESRCH):
		return false // its exit is on its way
	}
	hint := ""
	if errors.Is(err, syscall.EPERM) {
		hint = " (it runs as another user: evermore needs CAP_KILL)"
	}
	a.emit(Event{Kind: Warned, PID: a.run.process.PID(), Err: fmt.Errorf("cannot send %s to process %d: %w%s", signals.Name(s), a.run.process.PID(), err, hint)})
	return false
}
