package pid1

import (
	"fmt"
	"slices"
	"strconv"
	"syscall"
	"time"

	"evermore/signals"
)

const (
	// hookTime is how long a command of --on-exit may take.
	hookTime = 10 * time.Second
	// maxHooks is how many of them may run at a time.
	maxHooks = 4
)

// hook runs the command of --on-exit for a run that is over. Nothing waits for
// it but evermore's own end.
func (a *App) hook(e Event) {
	if len(a.opts.OnExit) == 0 {
		return
	}
	if len(a.hooks) >= maxHooks {
		a.emit(Event{Kind: Warned, Err: fmt.Errorf("no --on-exit for this exit: %d of them run already", maxHooks)})
		return
	}
	c := a.opts.Command
	c.Argv, c.OwnGroup, c.EndGroup, c.DieWithParent = a.opts.OnExit, true, true, true
	code, signal := strconv.Itoa(e.Exit.Code), ""
	switch {
	case e.Exit.Unknown:
		code = "unknown"
	case e.Exit.Signal != 0:
		code, signal = "", signals.Name(e.Exit.Signal)
	}
	c.Env = append(slices.Clip(c.Env),
		"EVERMORE_EXIT_UID="+a.opts.UID,
		"EVERMORE_EXIT_CODE="+code,
		"EVERMORE_EXIT_SIGNAL="+signal,
		"EVERMORE_EXIT_REASON="+string(e.Reason),
		"EVERMORE_EXIT_UPTIME_MS="+strconv.FormatInt(e.Uptime.Milliseconds(), 10),
		"EVERMORE_EXIT_PID="+strconv.Itoa(e.Exit.PID),
		"EVERMORE_EXIT_RESTARTS="+strconv.Itoa(a.snap.Restarts),
	)
	p, err := a.procs.Start(c)
	if err != nil {
		a.emit(Event{Kind: Warned, Err: fmt.Errorf("--on-exit: %w", err)})
		return
	}
	a.hooks = append(a.hooks, hook{process: p, until: time.Now().Add(hookTime)})
	a.timeHooks()
}

// hook is a command of --on-exit that runs.
type hook struct {
	process Process
	until   time.Time // zero: it hangs in the kernel, and is not waited for
	killed  bool
}

func (h hook) awaited() bool { return !h.until.IsZero() }

// hookExited tells whether the process was a hook, and forgets it.
func (a *App) hookExited(pid int, status string, code int) bool {
	i := slices.IndexFunc(a.hooks, func(h hook) bool { return h.process.PID() == pid })
	if i < 0 {
		return false
	}
	killed := a.hooks[i].killed
	a.hooks = slices.Delete(a.hooks, i, i+1)
	a.timeHooks()
	if code != 0 && !killed {
		a.emit(Event{Kind: Warned, Err: fmt.Errorf("the command of --on-exit failed: %s", status)})
	}
	return true
}

// hooksRun tells whether there is a hook to wait for.
func (a *App) hooksRun() bool { return slices.ContainsFunc(a.hooks, hook.awaited) }

// timeHooks sets the timer to the first moment at which a hook has had its time.
func (a *App) timeHooks() {
	var first time.Time
	for _, h := range a.hooks {
		if h.awaited() && (first.IsZero() || h.until.Before(first)) {
			first = h.until
		}
	}
	if first.IsZero() {
		a.hookTimer.stop()
		return
	}
	a.hookTimer.set(max(time.Until(first), 0))
}

// hookTimeElapsed: a hook has had its time. One that not even SIGKILL ends is
// left alone.
func (a *App) hookTimeElapsed() {
	now := time.Now()
	for i := range a.hooks {
		switch h := &a.hooks[i]; {
		case !h.awaited() || h.until.After(now):
		case h.killed:
			h.until = time.Time{}
			a.emit(Event{Kind: Warned, Err: fmt.Errorf("the command of --on-exit is still there %s after SIGKILL: it hangs in the kernel", killGrace)})
		default:
			h.killed, h.until = true, now.Add(killGrace)
			a.emit(Event{Kind: Warned, Err: fmt.Errorf("the command of --on-exit did not end in %s: killed", hookTime)})
			_ = h.process.SignalGroup(syscall.SIGKILL)
		}
	}
	a.timeHooks()
}
