package pid1

import (
	"fmt"
	"time"
)

const (
	// memoryInterval is how often the app's memory is looked at where it is
	// limited. Nobody tells of it: this is the one thing that has to be asked for.
	memoryInterval = 5 * time.Second
	// scheduleLimit bounds the wait for a moment of the wall clock, which may be
	// set meanwhile.
	scheduleLimit = time.Hour
)

// limit sets the timers of what ends a run in good order.
func (a *App) limit() {
	if a.opts.MaxMemory > 0 {
		a.memory.set(memoryInterval)
	}
	if a.opts.MaxRunTime > 0 {
		// The start of an adopted run is on the wall clock, which may be wrong.
		a.runTime.set(max(a.opts.MaxRunTime-max(time.Since(a.run.started), 0), 0))
	}
	a.schedule()
}

// unlimit stops them.
func (a *App) unlimit() {
	a.memory.stop()
	a.runTime.stop()
	a.scheduled.stop()
}

// memoryTimeElapsed: it is time to look at the app's memory.
func (a *App) memoryTimeElapsed() {
	if a.state != StateRunning {
		return
	}
	used, ok := a.procs.Memory(a.run.process)
	if !ok || used <= a.opts.MaxMemory {
		a.memory.set(memoryInterval)
		return
	}
	a.because, a.fault = ReasonMemory, true
	a.cause = fmt.Sprintf("it uses %d MB of memory, more than %d MB", used>>20, a.opts.MaxMemory>>20)
	a.endRun(0, a.killSignal())
}

// runTimeElapsed: the run has lasted as long as it may.
func (a *App) runTimeElapsed() {
	if a.state == StateRunning {
		a.replace(ReasonRequest, fmt.Sprintf("it has run for %s", a.opts.MaxRunTime))
	}
}

// schedule waits for the next moment of Options.Schedule.
func (a *App) schedule() {
	if a.opts.Schedule == nil {
		return
	}
	now := time.Now().Round(0) // the monotonic clock knows nothing of a wall clock that is set
	// One that was set back has brought moments before that which was waited for.
	if next := a.opts.Schedule(now); a.nextTime.IsZero() || !a.nextTime.After(now) || next.Before(a.nextTime) {
		a.nextTime = next
	}
	if !a.nextTime.IsZero() {
		a.scheduled.set(min(a.nextTime.Sub(now), scheduleLimit))
	}
}

// scheduleElapsed: the moment may have come.
func (a *App) scheduleElapsed() {
	if a.state != StateRunning {
		return
	}
	if time.Now().Round(0).Before(a.nextTime) {
		a.schedule()
		return
	}
	a.nextTime = time.Time{}
	a.replace(ReasonRequest, "it is due")
}
