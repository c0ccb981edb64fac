package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

const preloadRounds = 60

// measurePreload: what it costs a process of node that a port is held for it, and
// what evermore costs a server's start with it. Plain node is beside it.
func measurePreload(l *lab) {
	for _, held := range l.apps {
		if held.name == "evermore --hold" && held.program != "" {
			if err := l.timeRuns(held); err != nil {
				l.fail("preload", held, err)
			}
		}
	}
	either := func(p peer) bool { return p.once != nil }
	l.roundsOf(l.apps, "listening", preloadRounds, either, l.timeListening)
}

// timeRuns takes the time of a node that has nothing to do, in this process's own
// environment and in that of an app whose port the peer holds, by turns.
func (l *lab) timeRuns(held peer) error {
	h, err := l.appHost(held, 0)
	if err != nil {
		return err
	}
	defer h.end()
	environment, err := h.environment()
	if err != nil {
		return err
	}
	for round := range preloadRounds + 1 {
		for _, in := range []struct {
			peer        peer
			environment []string
		}{{l.apps[0], os.Environ()}, {held, environment}} {
			node := exec.Command("node", "-e", "0")
			node.Env = in.environment
			began := time.Now()
			if told, err := node.CombinedOutput(); err != nil {
				return fmt.Errorf("node: %w\n%s", err, told)
			}
			if round > 0 {
				l.keep("run", in.peer, ms(time.Since(began)))
			}
		}
	}
	return nil
}

// environment is that of the app's process.
func (h *appHost) environment() ([]string, error) {
	nodes, err := h.find(h.isApp)
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, h.explain(errors.New("the app has no process"))
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", nodes[0]))
	return strings.Split(strings.TrimRight(string(text), "\x00"), "\x00"), err
}

// timeListening keeps the time from the exec of a peer until the server listens,
// and the part of it that is node's.
func (l *lab) timeListening(p peer, keep bool) error {
	s, err := l.start(p, p.once, "listen.js")
	if err != nil {
		return err
	}
	defer s.end()
	got, err := s.report.each(patience, began, listens)
	if err != nil {
		return s.explain(err)
	}
	if keep {
		at := got[listens].At
		l.keep("listening", p, float64(at-got[listens].Since)/1e6)
		l.keep("listening of node", p, float64(at-got[began].At)/1e6)
	}
	return nil
}
