package cli

import (
	"errors"
	"fmt"
	"time"

	pid1 "evermore/init"
	"evermore/logs"
	"evermore/signals"
)

// lastWords are what --termination-log says of the end: what happened to the last
// run, and why it was the last. Nothing of it is the app's own: no argument, no
// variable, no output.
type lastWords struct {
	exited *pid1.Event // nil: nothing has run
	gaveUp string
}

// observe takes note of what matters at the end.
func (l *lastWords) observe(e pid1.Event) {
	switch e.Kind {
	case pid1.Exited, pid1.SpawnFailed:
		l.exited = &e
	case pid1.GaveUp:
		l.gaveUp = e.Text
	case pid1.Stopped:
		if e.Reason == pid1.ReasonRequest {
			l.gaveUp = "" // one of several had, and the others went on
		}
	}
}

// line is what is written of an end with the exit code.
func (l *lastWords) line(code, restarts int) string {
	e := l.exited
	if e == nil {
		return fmt.Sprintf("could not start: exit code %d\n", code)
	}
	line := fmt.Sprintf("%s: exit code %d", e.Reason, code)
	if e.Exit.Signal != 0 {
		line += fmt.Sprintf(" (%s)", signals.Name(e.Exit.Signal))
	}
	if e.Kind == pid1.Exited {
		line += fmt.Sprintf(" after %s", e.Uptime.Round(time.Millisecond))
	}
	line += fmt.Sprintf(", restarts: %d", restarts)
	if l.gaveUp != "" {
		line += "; gave up: " + l.gaveUp
	}
	return line + "\n"
}

// lastWordsTime is how long the end waits for the file.
const lastWordsTime = time.Second

// leaveLastWords writes the line in place of what the file holds. Kubernetes reads
// 4096 bytes of it:
// https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
func leaveLastWords(path, line string) error {
	written := make(chan error, 1)
	go func() {
		f, err := logs.Replace(path)
		if err == nil {
			_, err = f.WriteString(line)
			if e := f.Close(); err == nil {
				err = e
			}
		}
		written <- err
	}()
	var err error
	select {
	case err = <-written:
	case <-time.After(lastWordsTime): // a FIFO that is full, a disk that hangs
		err = errors.New("it takes no line")
	}
	if err != nil {
		return fmt.Errorf("cannot write why it ended to %s: %w", path, reason(err))
	}
	return nil
}
