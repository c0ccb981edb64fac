package main

import "strconv"

const (
	restartRounds = 10
	restarts      = 20 // in a round
	// lifeMS is how long a child lives: longer than a supervisor may be busy
	// with its start, and than forever and pm2 take for spinning.
	lifeMS = 20
)

// measureRestart: a child's last moment to the first instruction of the next.
func measureRestart(l *lab) {
	can := func(p peer) bool { return p.again != nil }
	l.rounds("restart", restartRounds, can, func(p peer, keep bool) error {
		s, err := l.start(p, p.again, "child", strconv.Itoa(lifeMS))
		if err != nil {
			return err
		}
		defer s.end()
		for range restarts {
			last, err := s.next(ends)
			if err != nil {
				return err
			}
			first, err := s.next(began)
			if err != nil {
				return err
			}
			if keep {
				l.keep("restart", p, float64(first.At-last.At)/1e6)
			}
		}
		return nil
	})
}
