package metrics

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"

	pid1 "evermore/init"
)

const (
	// askTimeout is how long the loop may take to answer, and the app to say
	// whether it is ready.
	askTimeout = 2 * time.Second
	// unkillableAfter is how long SIGKILL may take. What outlasts it hangs in the
	// kernel, and only the end of the container may be of help.
	unkillableAfter = 5 * time.Second
)

// check is what was found about one thing that a probe asks for.
type check struct {
	name string
	why  string // why it failed; empty: it did not
}

func (c check) ok() bool { return c.why == "" }

// String is a line without its end.
func (c check) String() string {
	if c.ok() {
		return c.name + " ok"
	}
	return c.name + " failed: " + c.why
}

func allOK(checks []check) bool {
	for _, c := range checks {
		if !c.ok() {
			return false
		}
	}
	return true
}

// live finds out whether evermore can do its work. A child that crashes and is
// started again is no reason to fail: that is its work.
func (s *Server) live() []check {
	loop := check{name: "loop", why: s.pingLoop()}
	now := s.src.Snapshot()
	kill := check{name: "kill"}
	for _, w := range s.src.Snapshots() {
		if since := w.UnkillableSince; !since.IsZero() && time.Since(since) > unkillableAfter {
			kill.why = fmt.Sprintf("process %d is still there %s after SIGKILL", w.PID, seconds(since))
		}
	}
	return []check{loop, kill, {name: "readiness", why: s.unreadyForTooLong(now)}}
}

func (s *Server) pingLoop() (why string) {
	ctx, cancel := context.WithTimeout(s.ctx, askTimeout)
	defer cancel()
	if err := s.src.Ping(ctx); err != nil {
		return "it does not answer: " + oneLine(err.Error())
	}
	return ""
}

// unreadyForTooLong says why the app has been neither ready nor in back-off for
// the live time-out; empty: it has not.
//
// An app that is asked by a URL is not waited for, unless this is the moment to
// condemn it: a liveness probe that waits as long as a hanging app does would
// itself fail, long before the live time-out.
func (s *Server) unreadyForTooLong(now *pid1.Snapshot) (why string) {
	since := now.UnreadySince
	switch {
	case s.liveTimeout <= 0:
	case since.IsZero() || time.Since(since) <= s.liveTimeout:
		s.askReadyLater()
	default:
		if ok, why := s.askReady(); !ok {
			return fmt.Sprintf("neither ready nor in back-off for %s: %s", seconds(since), why)
		}
	}
	return ""
}

// ready finds out whether the app is up and ready.
func (s *Server) ready() []check {
	if ok, why := s.askReady(); !ok {
		return []check{{name: "ready", why: why}}
	}
	return []check{{name: "ready"}}
}

// askReady asks the app, by its URL if it has one. Whoever wants to know may
// have gone meanwhile: what was found holds all the same.
func (s *Server) askReady() (ok bool, why string) {
	ctx, cancel := context.WithTimeout(s.ctx, askTimeout)
	defer cancel()
	ok, why = s.src.CheckReady(ctx)
	// A stop may have begun since it was asked.
	if now := s.src.Snapshot(); ok && now.State != pid1.StateRunning {
		ok, why = false, now.NotReady
	}
	if ok {
		return true, ""
	}
	if why = oneLine(why); why == "" {
		why = "it does not say why"
	}
	return false, why
}

// askReadyLater has the app asked without waiting for it.
func (s *Server) askReadyLater() {
	if s.asking.CompareAndSwap(false, true) {
		s.tasks.Go(func() {
			defer s.asking.Store(false)
			s.askReady()
		})
	}
}

// seconds tells a person how long ago it was.
func seconds(since time.Time) time.Duration { return time.Since(since).Round(time.Second) }

// oneLine makes a line of what the app or an error says.
func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s))
}
