package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// No request fails while pods are replaced, whoever asks for it: those who keep
// their connections and those who make one for each. No other test runs meanwhile:
// a client that comes to run too late uses a connection that was closed as idle.
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
		load := n.load()
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
		answered, failed, took := load.end()
		t.Logf("%s: %d requests answered in %v, %d failed", step.name, answered, took.Round(time.Second/10), len(failed))
		if answered < 100 || len(failed) > 0 {
			t.Errorf("%s: %d answered; of those that failed:\n%v", step.name, answered, errors.Join(failed[:min(len(failed), 10)]...))
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

// load is clients that ask the Service again and again.
type load struct {
	cancel   context.CancelFunc
	clients  sync.WaitGroup
	began    time.Time
	answered atomic.Int64
	mu       sync.Mutex
	failed   []error
}

func (n *namespace) load() *load {
	n.t.Helper()
	url := "http://" + n.kubectl("get", "service", "app", "--output", "jsonpath={.spec.clusterIP}") + "/"
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, began: time.Now()}
	n.t.Cleanup(cancel)
	for i := range 8 {
		kept := i%2 == 1
		transport := &http.Transport{DisableKeepAlives: !kept}
		l.clients.Go(func() {
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
			for ctx.Err() == nil {
				if err := post(client, url); err != nil {
					l.mu.Lock()
					l.failed = append(l.failed, fmt.Errorf("%s, connection kept: %t: %w", time.Now().Format("15:04:05.000"), kept, err))
					l.mu.Unlock()
				} else {
					l.answered.Add(1)
				}
				select {
				case <-time.After(10 * time.Millisecond): // a machine has more to do
				case <-ctx.Done():
				}
			}
		})
	}
	return l
}

// post sends what net/http does not send a second time by itself when the
// connection breaks.
func post(client *http.Client, url string) error {
	response, err := client.Post(url, "text/plain", bytes.NewReader([]byte("hello")))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// end lets all requests under way be answered.
func (l *load) end() (answered int64, failed []error, took time.Duration) {
	l.cancel()
	l.clients.Wait()
	return l.answered.Load(), l.failed, time.Since(l.began)
}
