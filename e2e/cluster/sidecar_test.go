package cluster

import (
	"fmt"
	"testing"
)

// A native sidecar under an evermore of its own, in a pod whose programs share one
// pid namespace, where neither evermore is PID 1.
func TestSidecar(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.deploy(overlay{
		components: []string{"sidecar"},
		env:        map[string]string{"EVERMORE_DRAIN_WAIT": "0"},
		pod: object{"initContainers": []object{{
			"name": "sidecar", "env": []object{{"name": "PORT", "value": "3001"}},
		}}},
	})
	p := n.awaitReady()
	parent := func(container string) string {
		return n.kubectl("exec", p.Metadata.Name, "--container", container, "--", "node", "-p",
			`const { execPath } = process;
			fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map((pid) => {
				try { return [pid, fs.readlinkSync('/proc/' + pid + '/exe')] } catch { return [pid, '?'] }
			}).filter(([, exe]) => exe !== execPath).map((found) => found.join(' ')).join(', ')`)
	}
	t.Logf("seen from the sidecar: %s", parent("sidecar"))

	for port, metrics := range map[int]int{3000: 9797, 3001: 9798} {
		// Each can signal what runs in the other container: it is the same user.
		n.kill(p, port, "SIGKILL")
		if got := p.metricAt(t, metrics, "evermore_child_restarts_total", `reason="signal"`); got != 1 {
			t.Errorf("the evermore at %d counts %v restarts after one kill", metrics, got)
		}
	}
	p = n.awaitReady()
	sidecar := p.Status.InitContainerStatuses[0]
	if p.app().RestartCount != 0 || sidecar.RestartCount != 0 {
		t.Errorf("the containers were restarted %d and %d times", p.app().RestartCount, sidecar.RestartCount)
	}

	n.keep(p)
	n.kubectl("delete", "pod", p.Metadata.Name, "--wait=false")
	eventually(t, "both have ended", func() error {
		p = n.pod(p.Metadata.Name)
		if p.app().State.Terminated == nil || p.Status.InitContainerStatuses[0].State.Terminated == nil {
			return fmt.Errorf("the pod is %s", p.Status.Phase)
		}
		return nil
	})
	app, side := p.app().State.Terminated, p.Status.InitContainerStatuses[0].State.Terminated
	t.Logf("app: exit code %d at %v, %q; sidecar: exit code %d at %v, %q",
		app.ExitCode, app.FinishedAt, app.Message, side.ExitCode, side.FinishedAt, side.Message)
	if app.ExitCode != 0 || side.ExitCode != 0 || side.FinishedAt.Before(app.FinishedAt) {
		t.Error("want both to end in good order, the sidecar after the app")
	}
	n.release(p)
}

// An image that knows nothing of evermore is given it by an initContainer.
func TestInject(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.deploy(overlay{components: []string{"inject"}})
	p := n.awaitReady()
	if exe := n.inside(p, "node", "-p", "fs.readlinkSync('/proc/1/exe')"); exe != "/evermore-bin/evermore\n" {
		t.Errorf("PID 1 is %q", exe)
	}
	if ended := p.Status.InitContainerStatuses[0].State.Terminated; ended == nil || ended.ExitCode != 0 {
		t.Errorf("the initContainer has ended with %+v", ended)
	}
	n.kill(p, 3000, "SIGKILL")
	t.Logf("list:\n%s", n.inside(p, "/evermore-bin/evermore", "list"))
}
