package cluster

import (
	"bufio"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// An app that needs its time gets it, and the exit code is its own.
func TestSlowApp(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.deploy(overlay{
		args: []string{"node", "-e", `console.log('up'); setInterval(() => {}, 1e6);
			process.on('SIGTERM', () => { console.log('told'); setTimeout(() => { console.log('done'); process.exit(3) }, 5000) })`},
		env: map[string]string{"EVERMORE_READY": "", "EVERMORE_DRAIN_WAIT": "0"},
	})
	f := n.delete(n.awaitReady())
	if f.code != 3 || !slices.Contains(f.log, "done\n") {
		t.Errorf("the container exited with %d, want the app's own 3 after it was done; the log:\n%s", f.code, f.log)
	}
	if _, killed := first(f.events, "killed"); killed {
		t.Error("the app was killed")
	}
	t.Logf("the app had %v of a grace period of 30s, exit code %d, termination message %q", f.took("stopping", "exited"), f.code, f.message)
}

// An app that will not end is killed by evermore, before the kubelet kills both:
// so its leftovers are ended and the end is told.
func TestStubbornApp(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.deploy(overlay{
		args: []string{"node", "-e", `console.log('up'); setInterval(() => {}, 1e6); process.on('SIGTERM', () => console.log('no'))`},
		env:  map[string]string{"EVERMORE_READY": "", "EVERMORE_DRAIN_WAIT": "0", "EVERMORE_KILL_TIMEOUT": "4s"},
	})
	f := n.delete(n.awaitReady())
	if !slices.Contains(f.log, "no\n") {
		t.Errorf("the app was not told to end; the log:\n%s", f.log)
	}
	if _, killed := first(f.events, "killed"); !killed || f.code != 137 {
		t.Errorf("exit code %d and killed by evermore: %t, want 137 and true", f.code, killed)
	}
	if f.message == "" {
		t.Error("evermore did not come to tell of the end: the kubelet killed it")
	}
	t.Logf("killed %v after it was told, the kubelet would have waited for 30s; exit code %d, termination message %q",
		f.took("stopping", "killed"), f.code, f.message)
}

// While it drains, an app serves and is not ready: so its Service forgets it before
// it ends.
func TestDrain(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.deploy(overlay{env: map[string]string{"EVERMORE_DRAIN_WAIT": "8s", "EVERMORE_KILL_TIMEOUT": "15s"}})
	p := n.awaitReady()
	n.kubectl("delete", "pod", p.Metadata.Name, "--wait=false")
	eventually(t, "evermore says that it drains", func() error {
		status, body, err := p.http(9797, "/readyz")
		if err == nil && status != 503 {
			err = io.ErrUnexpectedEOF
		}
		if err == nil {
			t.Logf("/readyz while it drains: %d %s", status, strings.TrimSpace(body))
		}
		return err
	})
	if status, _, err := p.http(3000, "/"); err != nil || status != 200 {
		t.Errorf("the app, while it drains: status %d, %v", status, err)
	}
}

// farewell is what was seen of a pod's end.
type farewell struct {
	t       *testing.T
	code    int
	message string // the termination message
	log     []string
	events  []event
}

// delete ends a pod as anybody does and looks on.
func (n *namespace) delete(p pod) *farewell {
	n.t.Helper()
	follow := exec.Command("kubectl", "--kubeconfig", kubeconfig, "--namespace", n.name, "logs", p.Metadata.Name, "--container", "app", "--follow")
	stdout, err := follow.StdoutPipe()
	if err == nil {
		err = follow.Start()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	log := bufio.NewReader(stdout)
	if _, err := log.Peek(1); err != nil {
		n.t.Fatal(err)
	}
	n.keep(p)
	n.kubectl("delete", "pod", p.Metadata.Name, "--wait=false")
	text, err := io.ReadAll(log)
	if err != nil {
		n.t.Fatal(err)
	}
	_ = follow.Wait()
	f := &farewell{t: n.t, log: slices.Collect(strings.Lines(string(text)))}
	f.events = parse(f.log)
	eventually(n.t, "the container's end is known", func() error {
		end := n.pod(p.Metadata.Name).app().State.Terminated
		if end == nil {
			return io.ErrUnexpectedEOF
		}
		f.code, f.message = end.ExitCode, end.Message
		return nil
	})
	n.release(p)
	return f
}

// keep has a pod's status stay after its end, until it is released.
func (n *namespace) keep(p pod) {
	n.t.Helper()
	n.kubectl("patch", "pod", p.Metadata.Name, "--patch", `{"metadata": {"finalizers": ["evermore.test/seen"]}}`)
	n.t.Cleanup(func() { n.release(p) }) // without it the namespace would never go
}

func (n *namespace) release(p pod) {
	_, _ = n.try(nil, "patch", "pod", p.Metadata.Name, "--patch", `{"metadata": {"finalizers": null}}`)
}

// took is the time between the first events of two kinds.
func (f *farewell) took(from, to string) time.Duration {
	f.t.Helper()
	begin, ok := first(f.events, from)
	end, also := first(f.events, to)
	if !ok || !also {
		f.t.Fatalf("the log lacks %s or %s:\n%s", from, to, strings.Join(f.log, ""))
	}
	return end.Time.Sub(begin.Time)
}
