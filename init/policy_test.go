package pid1

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"evermore/reaper"
)

const (
	ms = time.Millisecond
	s  = time.Second
)

// end is one end in a story: how long the run lasted, how it exited, when.
type end struct {
	uptime            time.Duration
	code              int
	forced, requested bool
	at                time.Duration
	want              Decision
}

func TestNext(t *testing.T) {
	const noJitter = 0
	for _, c := range []struct {
		name   string
		policy Policy
		ends   []end
	}{
		{"forever gives up a spinning script without a spin sleep time", Policy{MinUptime: s}, []end{
			{uptime: 999 * ms, code: 8, want: GiveUp{"it did not stay up for 1s"}},
		}},
		{"a run of the least uptime is not spinning", Policy{MinUptime: s}, []end{
			{uptime: s, code: 8, want: Restart{}},
			{uptime: 5 * s, want: Restart{}}, // exit code 0 is restarted like any other
		}},
		{"forever's constant pause", Policy{MinUptime: s, SpinSleepTime: 2 * s}, []end{
			{want: Restart{2 * s}}, {want: Restart{2 * s}}, {want: Restart{2 * s}}, {uptime: s, want: Restart{}},
		}},
		{"the pause grows and falls back", Policy{MinUptime: s, SpinSleepTime: 100 * ms, SpinSleepMax: 500 * ms}, []end{
			{want: Restart{100 * ms}},
			{want: Restart{200 * ms}},
			{want: Restart{400 * ms}},
			{want: Restart{500 * ms}},
			{want: Restart{500 * ms}},
			{uptime: s, want: Restart{}},
			{want: Restart{100 * ms}},
		}},
		{"the pause falls back after a run that lasted, however it ended", Policy{MinUptime: s, SpinSleepTime: 100 * ms, SpinSleepMax: 500 * ms}, []end{
			{want: Restart{100 * ms}},
			{uptime: s, forced: true, want: Restart{}},
			{want: Restart{100 * ms}},
			{uptime: s, requested: true, want: Restart{}},
			{want: Restart{100 * ms}},
			{forced: true, want: Restart{}},
			{want: Restart{200 * ms}},
		}},
		{"-m is the number of runs", Policy{MaxRuns: 3}, []end{
			{code: 1, want: Restart{}}, {code: 1, want: Restart{}}, {code: 1, want: GiveUp{"it ran 3 times"}},
		}},
		{"-m 1", Policy{MaxRuns: 1}, []end{{want: GiveUp{"it ran once"}}}},
		{"forced restarts use up no limit and are never spinning", Policy{MaxRuns: 2, MinUptime: s}, []end{
			{forced: true, want: Restart{}},
			{forced: true, want: Restart{}},
			{forced: true, want: Restart{}},
			{uptime: s, want: Restart{}},
			{uptime: s, want: GiveUp{"it ran 2 times"}},
		}},
		{"a forced restart follows whatever the policy", Policy{When: Never}, []end{{forced: true, want: Restart{}}}},
		{"a death by a forwarded signal is neither spinning nor counted", Policy{MinUptime: s, MaxRuns: 1}, []end{
			{requested: true, code: 1, want: Restart{}}, {requested: true, code: 1, want: Restart{}},
		}},
		{"but --restart never holds for it", Policy{When: Never}, []end{{requested: true, code: 1, want: Done{}}}},
		{"on-failure: a finished job is finished", Policy{When: OnFailure}, []end{{code: 1, want: Restart{}}, {code: 0, want: Done{}}}},
		{"on-failure: also when it was short", Policy{When: OnFailure, MinUptime: s}, []end{{code: 0, want: Done{}}}},
		{"never", Policy{When: Never}, []end{{code: 1, want: Done{}}}},
		{"five restarts in any minute, the sixth gives up", Policy{MaxRestarts: Rate{5, time.Minute}}, []end{
			{at: 0, want: Restart{}},
			{at: 10 * s, want: Restart{}},
			{at: 20 * s, want: Restart{}},
			{at: 30 * s, want: Restart{}},
			{at: 40 * s, want: Restart{}},
			{at: 50 * s, want: GiveUp{"it was restarted 5 times in 1m0s"}},
		}},
		{"the window slides", Policy{MaxRestarts: Rate{2, time.Minute}}, []end{
			{at: 0, want: Restart{}}, {at: 30 * s, want: Restart{}}, {at: 60 * s, want: Restart{}}, {at: 89 * s, want: GiveUp{"it was restarted 2 times in 1m0s"}},
		}},
		{"a restart counts when it happens, after its pause", Policy{MinUptime: s, SpinSleepTime: 40 * s, MaxRestarts: Rate{1, time.Minute}}, []end{
			{at: 0, want: Restart{40 * s}}, // happens at 40
			{at: 50 * s, uptime: s, want: GiveUp{"it was restarted once in 1m0s"}},
		}},
		{"0/window is no limit", Policy{MaxRestarts: Rate{}}, []end{{want: Restart{}}, {want: Restart{}}, {want: Restart{}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h History
			for i, e := range c.ends {
				var got Decision
				got, h = c.policy.Next(Ended{Exit: reaper.Exit{Code: e.code}, Uptime: e.uptime, Forced: e.forced, Requested: e.requested, Now: e.at}, h, noJitter)
				if !reflect.DeepEqual(got, e.want) {
					t.Fatalf("end %d: got %#v, want %#v", i, got, e.want)
				}
			}
		})
	}
}

// An exit by a signal is a failure, also one whose number says 0.
func TestSignalIsFailure(t *testing.T) {
	d, _ := Policy{When: OnFailure}.Next(Ended{Exit: reaper.Exit{Signal: 9}}, History{}, 0)
	if d != (Restart{}) {
		t.Errorf("got %#v", d)
	}
}

// Next shares nothing with the history that it was given.
func TestNextIsPure(t *testing.T) {
	p := Policy{MaxRestarts: Rate{3, time.Minute}}
	_, h1 := p.Next(Ended{}, History{}, 0)
	_, a := p.Next(Ended{Now: 1 * s}, h1, 0)
	_, b := p.Next(Ended{Now: 2 * s}, h1, 0)
	if len(h1.restarts) != 1 || a.restarts[1] != 1*s || b.restarts[1] != 2*s {
		t.Errorf("got %v, %v, %v", h1, a, b)
	}
}

func TestPauseStaysInItsBounds(t *testing.T) {
	p := Policy{SpinSleepTime: 100 * ms, SpinSleepMax: 30 * s}
	for n := 1; n < 5000; n++ {
		for _, j := range []float64{0, 0.3, 0.999} {
			if d := p.pause(n, j); d < 100*ms || d > 30*s {
				t.Fatalf("pause %d is %s", n, d)
			}
		}
	}
	if a, b := p.pause(9, 0), p.pause(9, 0.999); b >= a || b < a*3/4 {
		t.Errorf("jitter spreads %s to %s", a, b)
	}
}

func TestRemaining(t *testing.T) {
	for _, c := range []struct {
		p    Policy
		h    History
		now  time.Duration
		want int
	}{
		{Policy{}, History{Runs: 7}, 0, -1},
		{Policy{MaxRuns: 3}, History{}, 0, 2},
		{Policy{MaxRuns: 3}, History{Runs: 5}, 0, 0},
		{Policy{MaxRestarts: Rate{5, time.Minute}}, History{restarts: []time.Duration{0, 30 * s}}, 40 * s, 3},
		{Policy{MaxRestarts: Rate{5, time.Minute}}, History{restarts: []time.Duration{0, 30 * s}}, 70 * s, 4},
		{Policy{MaxRuns: 10, MaxRestarts: Rate{1, time.Minute}}, History{restarts: []time.Duration{0}}, 40 * s, 0},
		{Policy{MaxRuns: 2, MaxRestarts: Rate{5, time.Minute}}, History{Runs: 1}, 40 * s, 0},
	} {
		if got := c.p.Remaining(c.h, c.now); got != c.want {
			t.Errorf("%+v %+v: got %d, want %d", c.p, c.h, got, c.want)
		}
	}
}

func TestParseWhen(t *testing.T) {
	for text, want := range map[string]When{"always": Always, "on-failure": OnFailure, "never": Never} {
		if got, err := ParseWhen(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if _, err := ParseWhen("maybe"); err == nil || !strings.Contains(err.Error(), `"maybe"`) {
		t.Errorf("got %v", err)
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]Rate{"0": {}, "5/10m": {5, 10 * time.Minute}, "1/1s": {1, s}, "0/1m": {0, time.Minute}} {
		if got, err := ParseRate(text, time.ParseDuration); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "5", "/", "5/", "/1m", "-1/1m", "x/1m", "5/0s", "5/-1m", "5/x", "5/1m/2"} {
		if got, err := ParseRate(bad, time.ParseDuration); err == nil {
			t.Errorf("%q gives %v", bad, got)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, seed := range []string{"0", "5/10m", "/", "5/1m/2", "99999999999999999999/1m"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRate(text, time.ParseDuration)
		if err == nil && (Policy{MaxRestarts: r}).Validate() != nil {
			t.Errorf("%q gives %v, which is not valid", text, r)
		}
	})
}

func TestValidate(t *testing.T) {
	good := Options{Command: reaper.Command{Argv: []string{"node"}}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Options){
		"no command":             func(o *Options) { o.Command.Argv = nil },
		"kill time-out":          func(o *Options) { o.KillTimeout = -1 },
		"live time-out":          func(o *Options) { o.LiveTimeout = -1 },
		"watchdog":               func(o *Options) { o.Watchdog = -1 },
		"exit code":              func(o *Options) { o.RemapExit = map[int]int{1: 256} },
		"least uptime":           func(o *Options) { o.Policy.MinUptime = -1 },
		"spin sleep":             func(o *Options) { o.Policy.SpinSleepTime = -1 },
		"runs":                   func(o *Options) { o.Policy.MaxRuns = -1 },
		"rate without a window":  func(o *Options) { o.Policy.MaxRestarts = Rate{N: 1} },
		"longest pause negative": func(o *Options) { o.Policy.SpinSleepMax = -1 },
	} {
		o := good
		spoil(&o)
		if o.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestParseReadiness(t *testing.T) {
	for text, want := range map[string]Readiness{
		"uptime": {By: ReadyUptime}, "notify": {By: ReadyNotify},
		"http://127.0.0.1:3000/health": {By: ReadyURL, URL: "http://127.0.0.1:3000/health"},
		"https://localhost":            {By: ReadyURL, URL: "https://localhost"},
	} {
		if got, err := ParseReadiness(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "url", "ftp://x/", "http://", "/health", "http://[::1"} {
		if got, err := ParseReadiness(bad); err == nil {
			t.Errorf("%q gives %v", bad, got)
		}
	}
}
