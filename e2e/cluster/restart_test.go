package cluster

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// A killed app is back within the same container: the kubelet sees nothing of it.
func TestKilled(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	// An app that ends sooner would be started after a pause.
	n.deploy(overlay{env: map[string]string{"EVERMORE_MIN_UPTIME": "100ms"}})
	p := n.awaitReady()
	const kills = 3
	for i := range kills {
		n.kill(p, 3000, "SIGKILL")
		if got := p.metric(t, "evermore_child_restarts_total", `reason="signal"`); got != float64(i+1) {
			t.Errorf("evermore counts %v restarts after %d kills", got, i+1)
		}
	}
	p = n.awaitReady()
	if c := p.app(); c.RestartCount != 0 {
		t.Errorf("the container was restarted %d times", c.RestartCount)
	}
	var died time.Time
	for _, e := range n.events(p) {
		switch {
		case e.Event == "exited":
			died = e.Time
		case e.Event == "started" && !died.IsZero():
			t.Logf("from the app's death to the next start: %v", e.Time.Sub(died))
		}
	}
}

// An app that crashes again and again is given up with its own exit code: it is the
// kubelet that waits then, and everybody sees the code and the reason.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.deploy(overlay{
		args: []string{"node", "-e", "console.error('no database'); process.exit(42)"},
		env:  map[string]string{"EVERMORE_MAX_RESTARTS": "3/10m"},
	})
	var log []string
	eventually(t, "the first container's log begins", func() error {
		out, err := n.try(nil, "logs", "deployment/app", "--follow")
		log = slices.Collect(strings.Lines(out))
		return err
	})
	p := n.awaitPod("the kubelet backs off", func(p pod) bool {
		waiting := p.app().State.Waiting
		return waiting != nil && waiting.Reason == "CrashLoopBackOff" && p.app().RestartCount > 0
	})
	last := p.app().LastState.Terminated
	if last == nil || last.ExitCode != 42 {
		t.Fatalf("the last state is %+v, want the app's exit code 42", last)
	}
	t.Logf("after %v in the container: %s, exit code %d, reason %s, message %q",
		last.FinishedAt.Sub(last.StartedAt), p.app().State.Waiting.Reason, last.ExitCode, last.Reason, last.Message)
	if !strings.Contains(last.Message, "42") {
		t.Errorf("the termination message %q does not tell the reason", last.Message)
	}
	// The limit is the pod's: a further container is one more try.
	for name, test := range map[string]struct {
		log   []string
		lives int
	}{"first": {log, 4}, "second": {n.log(p, "--previous"), 1}} {
		lives, gaveUp := 0, 0
		for _, e := range parse(test.log) {
			switch e.Event {
			case "started":
				lives++
			case "gave_up":
				gaveUp++
			}
		}
		if lives != test.lives || gaveUp != 1 {
			t.Errorf("in the %s container the app lived %d times and was given up %d times, want %d and 1", name, lives, gaveUp, test.lives)
		}
	}
}
