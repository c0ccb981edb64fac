package pid1

import (
	"sync"
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

// oomWatch is what is known of the out-of-memory killer, by all workers of a pool.
// Nobody tells of its kills: its counter is looked at when the app ends, an orphan
// was killed, zombies are looked for or a probe asks.
type oomWatch struct {
	mu    sync.Mutex
	known bool
	kills uint64
	at    time.Time // when the counter had last risen
	left  int       // kills that no death of the app was put down to
}

// account takes note of what the control group has used when a run began, and has
// the kernel take the app before evermore.
func (a *App) account() {
	first := a.snap.Starts == 1
	a.run.usage = a.procs.Usage(nil)
	if first {
		a.lookForOOMKills(0)
	}
	if a.opts.Adopt == nil || !first {
		a.procs.Sacrifice(a.run.process)
	}
	if first && a.run.usage.KillsWhole {
		a.emit(Event{Kind: Noted, Text: "the kernel ends this whole container when it is out of memory (memory.oom.group is 1): it is the kubelet then that starts it again, not evermore"})
	}
}

// look tells how often the out-of-memory killer has struck since the last look.
func (w *oomWatch) look(count func() (uint64, bool)) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, ok := count()
	switch {
	case !ok:
		return 0
	case !w.known:
		w.kills, w.known = n, true
		return 0
	case n <= w.kills:
		return 0
	}
	struck := int(n - w.kills)
	w.kills, w.at, w.left = n, time.Now(), w.left+struck
	return struck
}

// claim tells whether a kill after a moment is left to put a death down to.
func (w *oomWatch) claim(after time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left == 0 || time.Since(w.at) >= oomLate || w.at.Before(after) {
		w.left = 0
		return false
	}
	w.left--
	return true
}

// lookForOOMKills looks how often the out-of-memory killer has struck since the
// last look. pid is that of the app if it may have been hit; 0: it runs.
func (a *App) lookForOOMKills(pid int) {
	if n := a.oom.look(a.procs.OOMKills); n > 0 {
		a.emit(Event{Kind: OOMKilled, PID: pid, Count: n})
	}
}

// oomKilled tells whether the out-of-memory killer ended the run. A shell in
// between makes exit code 137 of the signal that ended the app.
func (a *App) oomKilled(e reaper.Exit) bool {
	if a.because != "" || e.Status() != 128+int(syscall.SIGKILL) {
		a.lookForOOMKills(0)
		return false
	}
	a.lookForOOMKills(e.PID)
	return a.oom.claim(a.run.started)
}
