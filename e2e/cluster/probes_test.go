package cluster

import (
	"fmt"
	"testing"
)

// sickly is an app that says of itself that it is ill for as long as it is asked to
// be, and takes some time to begin.
const sickly = `let ill = false;
	setTimeout(() => require('node:http').createServer((request, response) => {
		if (request.url === '/fall-ill') ill = true;
		if (request.url === '/recover') ill = false;
		response.writeHead(ill && request.url === '/health' ? 500 : 200).end();
	}).listen(3000), 3000)`

// An app that is ill gets no requests, and is neither killed nor restarted: it may
// well be its database that is.
func TestReadiness(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.deploy(overlay{args: []string{"node", "-e", sickly}})
	p := n.awaitReady()
	n.awaitCount("Startup probe failed: HTTP probe failed with statuscode: 503", 1)
	for range 2 {
		p.ask(t, "/fall-ill")
		p = n.awaitPod("the pod is not ready", func(p pod) bool { return !p.is("Ready") })
		_, why, _ := p.http(9797, "/readyz")
		t.Logf("not ready: %s", why)
		if status, text, err := p.http(9797, "/livez"); status != 200 || err != nil {
			t.Errorf("/livez fails for an app that is ill: %d %s %v", status, text, err)
		}
		p.ask(t, "/recover")
		p = n.awaitReady()
	}
	n.awaitCount("Readiness probe failed: HTTP probe failed with statuscode: 503", 2)
	if starts := p.metric(t, "evermore_child_starts_total", ""); starts != 1 || p.app().RestartCount != 0 {
		t.Errorf("the app was started %v times, its container restarted %d times; want 1 and 0", starts, p.app().RestartCount)
	}
}

// An app that stays ill for --live-timeout is the kubelet's to restart, in good
// order.
func TestLiveness(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.deploy(overlay{
		args: []string{"node", "-e", sickly},
		env:  map[string]string{"EVERMORE_LIVE_TIMEOUT": "5s", "EVERMORE_DRAIN_WAIT": "0"},
		container: object{
			"livenessProbe": object{"periodSeconds": 1, "failureThreshold": 2},
		},
	})
	p := n.awaitReady()
	p.ask(t, "/fall-ill")
	p = n.awaitPod("the container is restarted and ready", func(p pod) bool { return p.app().RestartCount == 1 && p.is("Ready") })
	n.awaitCount("Liveness probe failed: HTTP probe failed with statuscode: 503", 1)
	last := p.app().LastState.Terminated
	t.Logf("the container ended with code %d, message %q", last.ExitCode, last.Message)
	t.Logf("evermore why, in the next one:\n%s", n.inside(p, "/evermore", "why"))
	if last.ExitCode != 143 {
		t.Errorf("exit code %d: the app was not ended by SIGTERM", last.ExitCode)
	}
}

func (p pod) ask(t *testing.T, path string) {
	t.Helper()
	if status, _, err := p.http(3000, path); err != nil || status != 200 {
		t.Fatalf("%s: %d %v", path, status, err)
	}
}

// awaitCount waits until the namespace has events with the message that have
// happened so often; they are written later than what they tell of.
func (n *namespace) awaitCount(message string, least int) {
	n.t.Helper()
	eventually(n.t, message, func() error {
		count := n.count(message)
		if count < least {
			return fmt.Errorf("it happened %d times, not %d", count, least)
		}
		n.t.Logf("%d times: %s", count, message)
		return nil
	})
}
