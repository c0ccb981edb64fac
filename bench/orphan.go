package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	orphanRounds = 5
	orphans      = 20_000
)

// measureOrphans: how long an orphan takes from the fork that makes it until the
// supervisor has reaped it, of many made as fast as the machine can. What of it
// is the supervisor's own CPU time is a second metric.
func measureOrphans(l *lab) {
	can := func(p peer) bool { return p.reaps }
	l.rounds("orphan", orphanRounds, can, func(p peer, keep bool) error {
		s, err := l.start(p, p.once, "orphans", strconv.Itoa(orphans))
		if err != nil {
			return err
		}
		defer s.end()
		last, err := s.next(reaped)
		if err != nil {
			return err
		}
		busy, err := cpuTime(s.pid())
		if err != nil {
			return err
		}
		if keep {
			l.keep("orphan", p, float64(last.At-last.Since)/1e3/orphans)
			l.keep("orphan CPU", p, busy/1e3/orphans)
		}
		return nil
	})
}

// cpuTime is what all threads of a process have used, in nanoseconds: the first
// field of schedstat (kernel: Documentation/scheduler/sched-stats.rst).
func cpuTime(pid int) (float64, error) {
	var sum float64
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseFloat(first, 64)
		if err != nil {
			return 0, fmt.Errorf("cannot read %s: %w", path, err)
		}
		sum += ns
	}
	return sum, nil
}
