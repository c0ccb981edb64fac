package cli

import (
	"os"
	"slices"
	"strings"
	"testing"

	"evermore/early"
	"evermore/signals"
)

// What package early starts by itself is what the command line would have
// started.
func TestEarlyIsWhatTheCommandLineDoes(t *testing.T) {
	for _, v := range os.Environ() {
		if _, plain := early.Command([]string{"evermore", "--", "node"}, []string{v}); !plain {
			name, value, _ := strings.Cut(v, "=")
			os.Unsetenv(name)
			t.Cleanup(func() { os.Setenv(name, value) })
		}
	}
	args := []string{"evermore", "--", "node", "-e", "1"}
	want, ok := early.Command(args, os.Environ())
	if !ok {
		t.Fatal("not plain")
	}
	s := newSettings("evermore")
	code := s.main(args[1:], os.Getenv, func(s *settings) int {
		o, err := s.options()
		if err != nil {
			t.Error(err)
		}
		got := o.Command
		if !slices.Equal(got.Argv, want.Argv) || !slices.Equal(got.Env, want.Env) || got.Dir != want.Dir || got.User != want.User ||
			got.NoNewPrivs != want.NoNewPrivs || got.EndGroup != want.EndGroup || got.DieWithParent != want.DieWithParent {
			t.Errorf("the command line starts %+v, early %+v", got, want)
		}
		if s.umask >= 0 || len(o.Before) > 0 || s.logFile+s.outFile+s.errFile+s.pidFile != "" || s.silent || s.isGiven("http") || o.SignalGroup {
			t.Errorf("a default asks for what early does not do: %+v", s)
		}
		// With a terminal early starts nothing: HUP means stop there.
		if !hasTerminal() && caught(&o) != signals.Forwarding(signals.Stop, nil) {
			t.Errorf("the command line catches %+v", caught(&o))
		}
		return 7
	})
	if code != 7 {
		t.Errorf("got %d", code)
	}
}

func TestMisspelt(t *testing.T) {
	got := misspelt([]string{
		"EVERMORE_MINUPTIME=5", "EVERMORE_MIN_UPTIME=5", "EVERMORE_SERVICE_HOST=x", "EVERMORE_RUN_ID=x", "evermore_max=1", "MAX=1", "EVERMORE_FOO=1",
		"EVERMORE_KIL_TIMEOUT=5s", "EVERMORE_DRAINWAIT_=5s", "EVERMORE_PORT=x", "EVERMORE_PORT_9797_TCP=x", "EVERMORE_SERVICE_PORT=x", "EVERMORE_ROOT=x", "EVERMORE_EXIT_UID=x",
		"EVERMORE_EXIT_PID=x", "EVERMORE_EXIT_SIGNAL=x", "EVERMORE_EXIT_RESTARTS=x", "EVERMORE_VERSION=1", "EVERMORE_WORKER=0", "EVERMORE_STARTER_FD=3",
	})
	want := []string{
		"the variable EVERMORE_MINUPTIME means nothing: did you mean EVERMORE_MIN_UPTIME?",
		"the variable evermore_max means nothing: did you mean EVERMORE_MAX?",
		"the variable EVERMORE_KIL_TIMEOUT means nothing: did you mean EVERMORE_KILL_TIMEOUT?",
		"the variable EVERMORE_DRAINWAIT_ means nothing: did you mean EVERMORE_DRAIN_WAIT?",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
