// Bench measures evermore side by side with other supervisors, in one run, and
// writes a Markdown table with the goals and the samples behind it.
//
// Every supervisor runs as PID 1 of its own pid namespace, on the same two CPUs,
// with the same small static C programs as its child. Rounds go through all
// supervisors in turn, so that what the machine does meanwhile hits all alike.
// A missed goal is a result; the exit code is 1 only when something could not be
// measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	evermore := flag.String("evermore", "bin/evermore", "the `binary` to measure")
	peers := flag.String("peers", "bench/.peers/node_modules", "the `folder` that npm installed forever, pm2 and autocannon into")
	out := flag.String("o", "", "a `file` to write the results to as well")
	underway := flag.Duration("load", time.Minute, "how `long` what keeps a server up is under load")
	only := flag.String("only", "", "measure only `some` of "+names())
	flag.Parse()
	if err := run(*evermore, *peers, *out, *only, *underway); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(evermore, npm, out, only string, underway time.Duration) error {
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	l, err := newLab(evermore, npm)
	if err != nil {
		return err
	}
	defer l.close()
	l.underway = underway

	interrupted, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	measured := make(chan struct{})
	go func() {
		defer close(measured)
		for _, m := range chosen {
			fmt.Fprintln(os.Stderr, "measuring:", m.name)
			m.run(l)
		}
	}()
	select {
	case <-interrupted.Done():
		return errors.New("interrupted")
	case <-measured:
	}

	var text strings.Builder
	l.write(&text, chosen)
	if _, err := io.WriteString(os.Stdout, text.String()); err != nil {
		return err
	}
	if out != "" {
		if err := os.WriteFile(out, []byte(text.String()), 0o644); err != nil {
			return fmt.Errorf("cannot write the results: %w", err)
		}
	}
	if n := len(l.failures); n > 0 {
		return fmt.Errorf("%d measurements failed, named under the table", n)
	}
	return nil
}
