package main

const startRounds = 200

// measureStart: exec of the supervisor to the first instruction of the child.
func measureStart(l *lab) {
	every := func(peer) bool { return true }
	l.rounds("start", startRounds, every, func(p peer, keep bool) error {
		s, err := l.start(p, p.once, "child")
		if err != nil {
			return err
		}
		defer s.end()
		first, err := s.next(began)
		if err == nil && keep {
			l.keep("start", p, float64(first.At-first.Since)/1e6)
		}
		return err
	})
}
