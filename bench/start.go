package main

const startRounds = 200

// measureStart: exec of the supervisor to the first instruction of the child, and
// the same where evermore has options to read.
func measureStart(l *lab) {
	every := func(peer) bool { return true }
	l.rounds("start", startRounds, every, func(p peer, keep bool) error {
		if err := l.timeStart("start", p, p.once, keep); err != nil || p.served == nil {
			return err
		}
		return l.timeStart("start with options", p, p.served, keep)
	})
}

func (l *lab) timeStart(metric string, p peer, how func(peer, job) ([]string, error), keep bool) error {
	s, err := l.start(p, how, "child")
	if err != nil {
		return err
	}
	defer s.end()
	first, err := s.next(began)
	if err == nil && keep {
		l.keep(metric, p, float64(first.At-first.Since)/1e6)
	}
	return err
}
