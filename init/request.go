package pid1

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"evermore/signals"
)

// ErrEnding is the answer to a request that came after the end was decided.
var ErrEnding = errors.New("the app is being ended")

// errRetired is the answer of an App that another one has taken the place of.
var errRetired = errors.New("another process has taken its place")

// ending is why an App that starts nothing any more refuses what it is asked.
func (a *App) ending() error {
	if a.retired != "" {
		return errRetired
	}
	return ErrEnding
}

// restartRequest asks for a new run.
type restartRequest struct {
	reason Reason
	text   string     // what a person should know of the cause
	done   chan error // gets the outcome once; buffered
}

// stopRequest asks for the end.
type stopRequest struct{ by syscall.Signal }

// signalRequest asks for a signal to the app.
type signalRequest struct {
	signal syscall.Signal
	text   string
	done   chan error // buffered
}

// Restart ends the run that there is, in order, and starts the next at once: a
// pause before a start is cut short, no limit is used up. It returns when the new
// run has begun or could not, or with the context's error: the restart goes on
// then. text is what the log says of the cause.
func (a *App) Restart(ctx context.Context, reason Reason, text string) error {
	r := restartRequest{reason, text, make(chan error, 1)}
	select {
	case a.restarts <- r:
	case <-a.over:
		return a.ending()
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop ends the app as a stop signal does. It returns when Run has, or with the
// context's error: the app is ended all the same. by, when not 0, is what the
// app is sent in place of Options.KillSignal; SIGKILL ends it now.
func (a *App) Stop(ctx context.Context, by syscall.Signal) error {
	select {
	case a.stops <- stopRequest{by}:
	case <-a.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-a.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Signal sends the app a signal, or its group with Options.SignalGroup. It is not
// rewritten and means nothing to evermore. text is what the log says of the cause.
func (a *App) Signal(ctx context.Context, s syscall.Signal, text string) error {
	r := signalRequest{s, text, make(chan error, 1)}
	select {
	case a.signals <- r:
	case <-a.over:
		return ErrEnding
	case <-ctx.Done():
		return ctx.Err()
	}
	return <-r.done
}

// killSignal is what ends a run when no signal did.
func (a *App) killSignal() syscall.Signal {
	if a.opts.KillSignal != 0 {
		return a.opts.KillSignal
	}
	return syscall.SIGTERM
}

// restartRequested: somebody wants a new run.
func (a *App) restartRequested(r restartRequest) {
	switch a.state {
	case StatePreparing:
		a.waiting = append(a.waiting, r.done)
		return
	case StateRunning:
		a.replace(r.reason, r.text)
	case StateStopping, StateClearing:
		if a.final {
			r.done <- a.ending()
			return
		}
		a.forced = !a.run.before // what follows --before is the first run anyway
	case StateBackoff:
		a.waiting = append(a.waiting, r.done)
		a.backoff.stop()
		a.restart()
		return
	case StateStopped:
		r.done <- a.ending()
		return
	default:
		r.done <- fmt.Errorf("internal error: a restart in state %q", a.state)
		return
	}
	a.waiting = append(a.waiting, r.done)
}

// replace ends the run so that the next one takes its place.
func (a *App) replace(reason Reason, text string) {
	a.because, a.cause, a.forced = reason, text, true
	a.endRun(0, a.killSignal())
}

// answer tells those who wait for a start how it went; what they see then is what
// came of it.
func (a *App) answer(err error) {
	if len(a.waiting) == 0 {
		return
	}
	a.publish()
	for _, done := range a.waiting {
		done <- err
	}
	a.waiting = nil
}

// endRequested: somebody wants the end, by the API.
func (a *App) endRequested(r stopRequest) {
	send := r.by
	if send == 0 {
		send = a.killSignal()
	}
	a.stopRequested(0, send)
	a.stopAsked = true
	if r.by == syscall.SIGKILL {
		a.killNow()
	}
}

// signalAsked: somebody wants the app to get a signal.
func (a *App) signalAsked(r signalRequest) {
	if a.run.process == nil {
		r.done <- errors.New("the app is not running")
		return
	}
	if !a.send(r.signal) {
		r.done <- fmt.Errorf("the app could not be sent %s", signals.Name(r.signal))
		return
	}
	a.sentAt[r.signal] = time.Now()
	a.sentBy(r.signal, Sender{By: ByEvermore})
	a.emit(Event{Kind: SignalSent, PID: a.run.process.PID(), Signal: r.signal, Text: r.text})
	r.done <- nil
}
