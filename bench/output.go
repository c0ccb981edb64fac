package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	outputRounds = 40
	outputBytes  = 256 << 20
)

// measureOutput: the child's first write until the file that the supervisor was
// told to collect its stdout in holds all of it. For the raw loop the file is
// its own stdout, which the child inherits.
func measureOutput(l *lab) {
	can := func(p peer) bool { return p.collect != nil }
	l.rounds("output", outputRounds, can, func(p peer, keep bool) error {
		s, err := l.newSession(p, "writer", strconv.Itoa(outputBytes))
		if err != nil {
			return err
		}
		defer s.end()
		s.job.file = filepath.Join(s.job.dir, "out")
		if s.report, err = openReport(s.reportPath()); err != nil {
			return err
		}
		if err := s.run(p.collect); err != nil {
			return err
		}
		first, err := s.next(writes)
		if err != nil {
			return err
		}
		last, err := filled(s.job.file, outputBytes)
		if err != nil {
			return s.explain(err)
		}
		if keep {
			l.keep("output", p, outputBytes/1e6/(float64(last-first.At)/1e9))
		}
		return nil
	})
}

// filled waits until a file has size bytes and gives the time.
func filled(path string, size int64) (int64, error) {
	deadline := time.Now().Add(patience)
	for {
		is, err := os.Stat(path)
		if err == nil && is.Size() >= size {
			return monotonic()
		}
		if time.Now().After(deadline) {
			if err == nil {
				err = fmt.Errorf("it has %d bytes of %d", is.Size(), size)
			}
			return 0, fmt.Errorf("the output did not arrive within %v: %w", patience, err)
		}
		time.Sleep(200 * time.Microsecond)
	}
}
