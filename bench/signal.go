package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

const (
	signalRounds = 10
	signals      = 100 // in a round
)

// measureSignal: SIGUSR1 sent to the supervisor to the child's handler. To the
// raw loop, which forwards nothing, the limit is a signal sent to the child.
func measureSignal(l *lab) {
	can := func(p peer) bool { return p.forwards }
	l.rounds("signal", signalRounds, can, func(p peer, keep bool) error {
		// The sender reads the report: this process would wake up for every record.
		s, err := l.newSession(p, "child")
		if err != nil {
			return err
		}
		defer s.end()
		if err := s.run(p.once); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		to := s.pid()
		if p.name == "raw" {
			if to, err = s.child(ctx); err != nil {
				return err
			}
		}
		sender := exec.CommandContext(ctx, l.program("sender"), s.reportPath(), strconv.Itoa(to), strconv.Itoa(signals))
		told, err := sender.Output()
		if err != nil {
			if failed := new(exec.ExitError); errors.As(err, &failed) {
				err = fmt.Errorf("the sender of signals failed: %w %s", err, failed.Stderr)
			}
			return s.explain(err)
		}
		for _, line := range strings.Fields(string(told)) {
			ns, err := strconv.ParseFloat(line, 64)
			if err != nil {
				return err
			}
			if keep {
				l.keep("signal", p, ns/1e3)
			}
		}
		return nil
	})
}
