package pid1

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"evermore/reaper"
)

const (
	// finishTime is how long an app that is never killed may take to finish what it
	// has begun; others have half of their kill time-out.
	finishTime = 10 * time.Second
	// hangGrace is how long an app that hangs may take to end: it is not there to
	// see a signal.
	hangGrace = time.Second
	// stackTime is how long it may take to find out where it hangs.
	stackTime = 5 * time.Second
	// pingsPerHang is how often the app is asked in the time after which it hangs.
	pingsPerHang = 4
)

// Link is a line to the processes of the app, beside signals. Its methods are
// called by the loop of an App, and by those of several at the same time.
type Link interface {
	// Hand calls start, which starts the app, with what it inherits added to the
	// command.
	Hand(c *reaper.Command, start func() error) error
	// Drain has a process finish what it has begun and begin nothing more. It tells
	// whether there is anything to wait for: then Finished comes. last: no other
	// process follows.
	Drain(pid int, last bool) bool
	// Stopping says that the process is sent its stop signal now.
	Stopping(pid int)
	// Ping asks for an answer, and tells for how long one is owed.
	Ping(pid int) (owed time.Duration)
	// Forgive asks anew for what is owed.
	Forgive(pid int)
	// Stack tells where a process hangs.
	Stack(ctx context.Context, pid int) (string, error)
}

// Told is what a process of the app tells by a Link.
type Told struct {
	PID  int // the process that evermore has started
	What Telling
	Text string // NotListening: why; Noted: what is worth knowing
}

// Telling is what Told is about.
type Telling int

const (
	Listens      Telling = iota // it listens where it is to
	NotListening                // it does not, or no more
	SaidReady                   // it said so
	Finished                    // it has finished what it had begun
)

// Tell tells the app what one of its processes has said. It returns when the loop
// knows.
func (a *App) Tell(t Told) {
	select {
	case a.tellings <- t:
	case <-a.over:
	}
}

// told: a process of the app said something.
func (a *App) told(t Told) {
	if a.run.process == nil || a.run.before || a.run.process.PID() != t.PID {
		return
	}
	switch t.What {
	case Listens:
		a.listens()
	case NotListening:
		a.run.listens = false
		if a.opts.Ready.By == ReadyListening && a.state == StateRunning {
			a.unready(t.Text)
		}
	case SaidReady:
		if a.opts.Ready.By == ReadyMessage && a.state == StateRunning {
			a.becameReady()
		}
	case Finished:
		if a.finishing != 0 {
			a.finished()
		}
	default:
		a.emit(Event{Kind: Warned, Err: fmt.Errorf("internal error: the app told %d", t.What)})
	}
}

// listens: the app listens where it is to.
func (a *App) listens() {
	if a.run.listens || a.state != StateRunning {
		return
	}
	a.run.listens = true
	switch a.opts.Ready.By {
	case ReadyListening:
		a.becameReady()
	case ReadyURL:
		a.ready.set(0) // who else listens there may have answered before
	}
}

// finish has the app finish what it has begun before it is sent what ends it, and
// tells whether there is anything to wait for.
func (a *App) finish(send syscall.Signal) bool {
	l := a.opts.Link
	if l == nil || a.run.before || a.fault || send == 0 || send == syscall.SIGKILL || !l.Drain(a.run.process.PID(), a.final && a.retired == "") {
		return false
	}
	a.snap.NotReady = "it finishes what it has begun"
	a.emit(Event{Kind: Draining, PID: a.run.process.PID()})
	a.finishing = send
	limit := finishTime
	if a.opts.KillTimeout > 0 {
		limit = a.opts.KillTimeout / 2
		a.run.killBy = time.Now().Add(a.opts.KillTimeout)
	}
	a.drain.set(limit)
	a.wakeUp()
	a.wake.set(firstWake)
	return true
}

// finished: the app has finished what it had begun, or had its time for it.
func (a *App) finished() {
	send := a.finishing
	a.finishing = 0
	a.drain.stop()
	a.opts.Link.Stopping(a.run.process.PID())
	a.emit(Event{Kind: Drained, PID: a.run.process.PID(), SentAs: send})
	a.tellToEnd(send)
}

// awaitHang begins to ask whether the app's event loop answers.
func (a *App) awaitHang() {
	if a.opts.HangTimeout > 0 && a.opts.Link != nil {
		a.hang.set(a.opts.HangTimeout / pingsPerHang)
		a.run.pingBy = time.Now().Add(a.opts.HangTimeout / pingsPerHang)
	}
}

// hangTimeElapsed: it is time to ask.
func (a *App) hangTimeElapsed() {
	if a.state != StateRunning || a.run.stackAsked {
		return
	}
	pid := a.run.process.PID()
	if time.Since(a.run.pingBy) > watchdogLate || a.run.process.Halted() {
		a.opts.Link.Forgive(pid) // evermore stood still as well, or the app was stopped on purpose
	}
	owed := a.opts.Link.Ping(pid)
	if owed == 0 {
		a.throttling = a.procs.Usage(&a.run.usage)
	}
	if owed < a.opts.HangTimeout {
		a.awaitHang()
		return
	}
	a.hung(owed)
}

// hung: the event loop has not answered for too long. One that had no processor
// to run on does not hang.
func (a *App) hung(owed time.Duration) {
	pid := a.run.process.PID()
	if now := a.procs.Usage(&a.run.usage); now.Throttles && a.throttling.Throttles {
		if t := now.Throttling.Since(a.throttling.Throttling); t.Time > owed/2 {
			a.emit(Event{Kind: Noted, PID: pid, Text: fmt.Sprintf(
				"its event loop has not answered for %s, and the container was throttled for %s of that time: it lacks CPU, and is not taken to hang", owed.Round(time.Millisecond), t.Time.Round(time.Millisecond))})
			a.opts.Link.Forgive(pid)
			a.awaitHang()
			return
		}
	}
	a.cause = fmt.Sprintf("its event loop has not answered for %s", owed.Round(time.Millisecond))
	if !a.opts.HangStack {
		a.endHung()
		return
	}
	a.run.stackAsked = true
	n := a.run.n
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), stackTime)
		defer cancel()
		s := stack{run: n}
		s.text, s.err = a.opts.Link.Stack(ctx, pid)
		select {
		case a.stacks <- s:
		case <-a.over:
		}
	}()
}

// stack is where an app hangs.
type stack struct {
	run  int
	text string
	err  error
}

// stackTaken: it is known where the app hangs, or can't be.
func (a *App) stackTaken(s stack) {
	if a.state != StateRunning || s.run != a.run.n {
		return
	}
	if s.err != nil {
		a.emit(Event{Kind: Warned, PID: a.run.process.PID(), Err: s.err})
	} else {
		a.emit(Event{Kind: HungAt, PID: a.run.process.PID(), Text: s.text})
	}
	a.endHung()
}

// endHung ends a run that hangs.
func (a *App) endHung() {
	a.because, a.fault = ReasonHang, true
	a.endRun(0, a.killSignal())
	if a.opts.KillTimeout == 0 || a.opts.KillTimeout > hangGrace {
		a.kill.set(hangGrace)
	}
}
