package pid1

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"evermore/reaper"
)

// When says which exits are followed by a restart.
type When int

const (
	Always    When = iota // every exit
	OnFailure             // any but exit code 0
	Never
)

// ParseWhen reads always, on-failure or never.
func ParseWhen(s string) (When, error) {
	switch s {
	case "always":
		return Always, nil
	case "on-failure":
		return OnFailure, nil
	case "never":
		return Never, nil
	}
	return 0, fmt.Errorf("unknown restart policy %q: use always, on-failure or never", s)
}

// Rate is at most N in any Window; N = 0: no limit.
type Rate struct {
	N      int
	Window time.Duration
}

// ParseRate reads "5/10m" (N/WINDOW) or "0", which is no limit. parseTime reads
// the window.
func ParseRate(s string, parseTime func(string) (time.Duration, error)) (Rate, error) {
	bad := func(why string) (Rate, error) {
		return Rate{}, fmt.Errorf("cannot read %q as a rate: %s (such as 5/10m; 0 for no limit)", s, why)
	}
	count, window, found := strings.Cut(s, "/")
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 {
		return bad("the count before the slash is no whole number of 0 or more")
	}
	if !found {
		if n == 0 {
			return Rate{}, nil
		}
		return bad("a window after a slash is missing")
	}
	d, err := parseTime(window)
	if err != nil || d <= 0 {
		return bad("the window after the slash is no time above 0")
	}
	return Rate{N: n, Window: d}, nil
}

// Policy decides what follows an exit, in forever's terms.
type Policy struct {
	When When
	// MinUptime is the least uptime of a run that is not spinning.
	MinUptime time.Duration
	// SpinSleepTime is the pause before a spinning script starts again.
	// 0: a spinning script is given up.
	SpinSleepTime time.Duration
	// SpinSleepMax is the longest pause: from SpinSleepTime on each pause is
	// twice the one before, with jitter. At most SpinSleepTime: every pause is
	// SpinSleepTime.
	SpinSleepMax time.Duration
	// MaxRuns is how often the script is run at the most, as forever's -m.
	// 0: no limit.
	MaxRuns int
	// MaxRestarts limits the restarts in any window.
	MaxRestarts Rate
	// StopCodes are exit codes that are not followed by a restart.
	StopCodes []int
}

// Validate reports values that mean nothing.
func (p Policy) Validate() error {
	switch {
	case p.MinUptime < 0:
		return errors.New("the least uptime is negative")
	case p.SpinSleepTime < 0 || p.SpinSleepMax < 0:
		return errors.New("the spin sleep time is negative")
	case p.MaxRuns < 0:
		return errors.New("the number of runs is negative")
	case p.MaxRestarts.N < 0 || p.MaxRestarts.N > 0 && p.MaxRestarts.Window <= 0:
		return errors.New("the rate of restarts has no window")
	}
	return nil
}

// History is what the policy remembers of earlier runs.
type History struct {
	// Runs is how many runs have ended by themselves: what MaxRuns counts.
	Runs int
	// Spins is how many runs in a row were spinning.
	Spins int
	// restarts are the moments of the restarts that count, oldest first, on a
	// clock that starts at 0.
	restarts []time.Duration
}

// with gives the history with restarts of earlier supervisors of the app: how
// long before now each was made, oldest first.
func (h History) with(ago []time.Duration, now time.Duration) History {
	var restarts []time.Duration
	for _, d := range ago {
		restarts = append(restarts, now-max(d, 0))
	}
	h.restarts = append(restarts, h.restarts...)
	return h
}

// Ended is one end of a run, as the policy sees it.
type Ended struct {
	Exit   reaper.Exit
	Uptime time.Duration
	// Forced says that somebody asked for the restart (a person, a watch, a
	// reload): it follows at once, whatever the policy says, and uses up no limit.
	Forced bool
	// Requested says that a signal which evermore forwarded ended the run: it is
	// neither spinning nor counted, but When holds.
	Requested bool
	// Fault says that evermore ended the run for a fault of it (a hang, its
	// memory): whatever its exit code, it is a failure.
	Fault bool
	// Now is the moment on the clock of the history.
	Now time.Duration
}

// Decision is what follows an exit: one of Restart, GiveUp and Done.
type Decision interface{ decision() }

// Restart says: start again after After.
type Restart struct{ After time.Duration }

// GiveUp says: the limits are used up, Why tells which.
type GiveUp struct{ Why string }

// Done says: nothing is to be restarted.
type Done struct{}

func (Restart) decision() {}
func (GiveUp) decision()  {}
func (Done) decision()    {}

// Next decides what follows an exit and gives the history that includes it.
// It is pure but for jitter, a number in [0,1) that spreads the pauses of many
// instances.
func (p Policy) Next(e Ended, h History, jitter float64) (Decision, History) {
	spinning := e.Uptime < p.MinUptime
	if !spinning {
		h.Spins = 0
	}
	if e.Forced {
		return Restart{}, h
	}
	if p.When == Never || p.When == OnFailure && e.Exit.Status() == 0 && !e.Fault {
		return Done{}, h
	}
	if !e.Fault && e.Exit.Signal == 0 && slices.Contains(p.StopCodes, e.Exit.Code) {
		return Done{}, h
	}
	if e.Requested {
		return Restart{}, h
	}
	h.Runs++
	if spinning {
		h.Spins++
	}
	if p.MaxRuns > 0 && h.Runs >= p.MaxRuns {
		return GiveUp{Why: fmt.Sprintf("it ran %s", times(h.Runs))}, h
	}
	if spinning && p.SpinSleepTime == 0 {
		return GiveUp{Why: fmt.Sprintf("it did not stay up for %s", p.MinUptime)}, h
	}
	after := time.Duration(0)
	if spinning {
		after = p.pause(h.Spins, jitter)
	}
	if p.MaxRestarts.N > 0 {
		// The restart happens after the pause: it is counted there.
		at := e.Now + after
		h.restarts = p.MaxRestarts.within(h.restarts, at)
		if len(h.restarts) >= p.MaxRestarts.N {
			return GiveUp{Why: fmt.Sprintf("it was restarted %s in %s", times(len(h.restarts)), p.MaxRestarts.Window)}, h
		}
		h.restarts = append(h.restarts, at)
	}
	return Restart{After: after}, h
}

// counts tells whether a restart after that end is one that MaxRestarts limits.
func (p Policy) counts(e Ended) bool { return p.MaxRestarts.N > 0 && !e.Forced && !e.Requested }

// Remaining is how many restarts the limits still allow at the moment now; -1:
// no limit.
func (p Policy) Remaining(h History, now time.Duration) int {
	left := -1
	if p.MaxRuns > 0 {
		left = max(p.MaxRuns-1-h.Runs, 0)
	}
	if r := p.MaxRestarts; r.N > 0 {
		n := max(r.N-len(r.within(h.restarts, now)), 0)
		if left < 0 || n < left {
			left = n
		}
	}
	return left
}

// within gives those moments that are less than the window before now, as a new
// slice: histories share nothing.
func (r Rate) within(moments []time.Duration, now time.Duration) []time.Duration {
	var in []time.Duration
	for _, m := range moments {
		if now-m < r.Window {
			in = append(in, m)
		}
	}
	return in
}

// pause is the wait before the start that follows the nth spinning run in a row.
// It doubles from SpinSleepTime to SpinSleepMax; jitter takes up to a quarter
// off, so that a fleet that fell together does not rise together.
func (p Policy) pause(n int, jitter float64) time.Duration {
	d := p.SpinSleepTime
	for range n - 1 {
		if d >= p.SpinSleepMax {
			break
		}
		d *= 2
	}
	d = min(d, max(p.SpinSleepMax, p.SpinSleepTime))
	return max(d-time.Duration(jitter*float64(d)/4), p.SpinSleepTime)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// jitter gives a number in [0,1).
func jitter() float64 { return rand.Float64() }
