package pid1

import (
	"syscall"
	"time"

	"evermore/cgroup"
	"evermore/reaper"
)

// Usage is what the control group of evermore and the app uses at one moment, as
// far as it is known.
type Usage struct {
	Memory      int64 // bytes; 0: unknown
	MemoryLimit int64 // bytes; 0: none, or unknown
	// Throttling is how often its processors were taken away, with Throttles.
	Throttling cgroup.Throttling
	Throttles  bool
	// KillsWhole says that an out-of-memory kill ends the whole group.
	KillsWhole bool
}

// oomLate is how long after it was killed a process that the out-of-memory killer
// took may be seen to die: its memory is given back first.
const oomLate = 10 * time.Second

// oomWatch is what is known of the out-of-memory killer. Nobody tells of its
// kills: its counter is looked at when the app ends, an orphan was killed, zombies
// are looked for or a probe asks.
type oomWatch struct {
	known bool
	kills uint64
	at    time.Time // when the counter had last risen, and no death of the app was put down to it
}

// account takes note of what the control group has used when a run began, and has
// the kernel take the app before evermore.
func (a *App) account() {
	first := a.snap.Starts == 1
	a.run.usage = a.procs.Usage(nil)
	if !a.oom.known {
		a.oom.kills, a.oom.known = a.procs.OOMKills()
	}
	if a.opts.Adopt == nil || !first {
		a.procs.Sacrifice(a.run.process)
	}
	if first && a.run.usage.KillsWhole {
		a.emit(Event{Kind: Noted, Text: "the kernel ends this whole container when it is out of memory (memory.oom.group is 1): it is the kubelet then that starts it again, not evermore"})
	}
}

// lookForOOMKills looks how often the out-of-memory killer has struck since the
// last look. pid is that of the app if it may have been hit; 0: it runs.
func (a *App) lookForOOMKills(pid int) (struck bool) {
	n, ok := a.procs.OOMKills()
	if !ok || !a.oom.known || n <= a.oom.kills {
		return false
	}
	e := Event{Kind: OOMKilled, PID: pid, Count: int(n - a.oom.kills)}
	a.oom.kills, a.oom.at = n, time.Now()
	a.emit(e)
	return true
}

// oomKilled tells whether the out-of-memory killer ended the run. A shell in
// between makes exit code 137 of the signal that ended the app.
func (a *App) oomKilled(e reaper.Exit) bool {
	if a.because != "" || e.Status() != 128+int(syscall.SIGKILL) {
		a.lookForOOMKills(0)
		return false
	}
	struck := a.lookForOOMKills(e.PID) || time.Since(a.oom.at) < oomLate && a.oom.at.After(a.run.started)
	if struck {
		a.oom.at = time.Time{}
	}
	return struck
}
