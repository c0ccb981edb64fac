package cluster

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"evermore/bench/load"
)

// No request fails while pods are replaced, whoever asks for it: those who keep
// their connections and those who make one for each. No other test runs meanwhile:
// what a client sends while its idle connection is being closed is lost, and the
// longer that takes, the likelier it is.
func TestNoRequestIsLost(t *testing.T) {
	n := newNamespace(t)
	n.deploy(overlay{replicas: 3})
	n.kubectl("rollout", "status", "deployment/app", "--timeout", patience.String())

	for _, step := range []struct {
		name string
		do   func()
	}{
		{"a rollout", func() {
			n.kubectl("rollout", "restart", "deployment/app")
		}},
		{"kubectl delete pod", func() {
			for _, p := range n.pods() {
				n.kubectl("delete", "pod", p.Metadata.Name)
				n.awaitReplicas(3)
			}
		}},
		{"eviction of all pods", func() {
			denied := 0
			for _, p := range n.pods() {
				eventually(t, "the budget allows it", func() error {
					err := n.evict(p)
					if err != nil {
						denied++
						if !strings.Contains(err.Error(), "disruption budget") {
							t.Fatal(err)
						}
					}
					return err
				})
			}
			t.Logf("the PodDisruptionBudget said no %d times", denied)
			if denied == 0 {
				t.Error("the PodDisruptionBudget let all pods go at once")
			}
		}},
	} {
		run := n.load()
		before := n.names()
		step.do()
		n.kubectl("rollout", "status", "deployment/app", "--timeout", patience.String())
		eventually(t, "no old pod is left", func() error {
			for name := range n.allNames() {
				if before[name] {
					return fmt.Errorf("%s is there", name)
				}
			}
			return nil
		})
		got := run.End()
		t.Logf("%s: %v", step.name, got)
		if got.Answered < 100 || got.Failed() > 0 {
			t.Errorf("%s: %d answered; of those that failed: %v", step.name, got.Answered, got.Failures[:min(got.Failed(), 10)])
		}
	}
	for _, p := range n.pods() {
		if p.app().RestartCount != 0 {
			t.Errorf("the container of %s was restarted %d times", p.Metadata.Name, p.app().RestartCount)
		}
	}
}

// names of the pods that are not about to go.
func (n *namespace) names() map[string]bool {
	n.t.Helper()
	names := map[string]bool{}
	for _, p := range n.pods() {
		names[p.Metadata.Name] = true
	}
	return names
}

// allNames are those of all pods that the API server has.
func (n *namespace) allNames() map[string]bool {
	n.t.Helper()
	names := map[string]bool{}
	for name := range strings.FieldsSeq(n.kubectl("get", "pods", "--output", "name")) {
		names[strings.TrimPrefix(name, "pod/")] = true
	}
	return names
}

func (n *namespace) awaitReplicas(want int) {
	n.t.Helper()
	eventually(n.t, "all replicas are ready", func() error {
		ready := 0
		for _, p := range n.pods() {
			if p.is("Ready") {
				ready++
			}
		}
		if ready != want {
			return fmt.Errorf("%d are ready", ready)
		}
		return nil
	})
}

// evict asks for a pod's end as kubectl drain does.
func (n *namespace) evict(p pod) error {
	eviction := fmt.Sprintf(`{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": %q, "namespace": %q}}`, p.Metadata.Name, n.name)
	_, err := n.try(strings.NewReader(eviction), "create", "--raw",
		fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/eviction", n.name, p.Metadata.Name), "--filename", "-")
	return err
}

// load asks the Service again and again, on connections that are kept and on new ones.
func (n *namespace) load() *load.Run {
	n.t.Helper()
	under := load.Load{
		Address: net.JoinHostPort(n.kubectl("get", "service", "app", "--output", "jsonpath={.spec.clusterIP}"), "80"),
		Kept:    4, Fresh: 4,
		Requests: []load.Request{{Path: "/", Body: len("hello")}},
		Pause:    10 * time.Millisecond, // a machine has more to do
		Timeout:  10 * time.Second,
	}
	// kube-proxy learns of a Service about a second later than of its pods, and until then
	// its address may lead to those of one that is gone.
	eventually(n.t, "the Service answers", func() error {
		run := under.Start()
		time.Sleep(time.Second)
		if r := run.End(); r.Failed() > 0 || r.Answered == 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	run := under.Start()
	n.t.Cleanup(func() { run.End() })
	return run
}
