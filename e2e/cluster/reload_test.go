package cluster

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// The code of an app is in a ConfigMap. A changed one is live in all pods without a
// failed request, one that does not run is not deployed, and no probe notices. No
// other test runs meanwhile, as with TestNoRequestIsLost.
func TestHotDeploy(t *testing.T) {
	n := newNamespace(t)
	n.publish("first", "")
	n.deploy(overlay{
		replicas: 2, components: []string{"config", "reload"}, args: []string{"node", "/config/server.js"},
		// Room for two processes.
		container: object{"resources": object{"limits": object{"memory": "256Mi"}}},
	})
	n.awaitReplicas(2)
	pods := n.pods()
	before := map[string]int{}
	for _, p := range pods {
		before[p.Metadata.Name] = p.serving(t, 3000)
	}

	run := n.load()
	probes := n.probe(pods)
	for _, version := range []string{"second", "third"} {
		n.publish(version, "")
		n.remount(pods, version)
		for _, p := range pods {
			eventually(t, version+" is live in "+p.Metadata.Name, func() error { return p.serves(version) })
			after := p.serving(t, 3000)
			t.Logf("%s is live in %s: process %d, then %d", version, p.Metadata.Name, before[p.Metadata.Name], after)
			before[p.Metadata.Name] = after
		}
	}
	// The old process of the last one ends in its own time.
	for _, p := range pods {
		eventually(t, "the reloads are over", func() error { return p.reloads(t, "ok", 2) })
	}
	n.publish("fourth", "throw new Error('bad deploy')")
	n.remount(pods, "fourth")
	for _, p := range pods {
		eventually(t, "it is rolled back", func() error { return p.reloads(t, "rolled_back", 1) })
		if after := p.serving(t, 3000); after != before[p.Metadata.Name] {
			t.Errorf("%s: process %d after %d, and a version that does not run", p.Metadata.Name, after, before[p.Metadata.Name])
		}
		if err := p.serves("third"); err != nil {
			t.Error(err)
		}
	}

	if failed := probes.end(); len(failed) > 0 {
		t.Errorf("%d probes failed: %s", len(failed), strings.Join(failed[:min(len(failed), 10)], "\n"))
	}
	result := run.End()
	t.Log(result)
	if result.Answered < 100 || result.Failed() > 0 {
		t.Errorf("%d answered; of those that failed: %v", result.Answered, result.Failures[max(0, result.Failed()-12):])
	}
	versions := map[string]int{}
	for body, answers := range result.By {
		_, version, _ := strings.Cut(body, ", ")
		versions[version] += answers
	}
	t.Logf("answers by version: %v", versions)
	if versions["first"] == 0 || versions["second"] == 0 || versions["third"] == 0 || len(versions) != 3 {
		t.Errorf("answers by version: %v", versions)
	}
	for _, message := range []string{"Liveness probe failed", "Readiness probe failed"} {
		if count := n.count(message); count > 0 {
			t.Errorf("%s: %d times", message, count)
		}
	}
	for _, p := range n.pods() {
		if _, ok := before[p.Metadata.Name]; !ok || p.app().RestartCount != 0 || !p.is("Ready") {
			t.Errorf("%s: %+v", p.Metadata.Name, p.Status)
		}
		for _, e := range n.events(p) {
			if strings.HasPrefix(e.Event, "reload") {
				t.Logf("%s %s", p.Metadata.Name, e.Message)
			}
		}
	}
}

// publish writes a version of the app into its ConfigMap. What goes first is run
// before it listens.
func (n *namespace) publish(version, first string) {
	n.t.Helper()
	n.apply(object{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": "app"},
		"data": object{"server.js": first + fmt.Sprintf(`
			require('node:http').createServer((request, response) => {
				request.resume().on('end', () => setTimeout(() => response.end('pid ' + process.pid + ', %s'), 5))
			}).listen(3000)`, version)},
	})
}

// remount has the kubelet look at the pods' volumes now. It does so about once a
// minute, and when a pod changes.
func (n *namespace) remount(pods []pod, version string) {
	n.t.Helper()
	for _, p := range pods {
		n.kubectl("annotate", "pod", p.Metadata.Name, "evermore.test/version="+version, "--overwrite")
	}
}

func (p pod) serves(version string) error {
	_, body, err := p.http(3000, "/")
	if err == nil && !strings.HasSuffix(body, ", "+version) {
		err = fmt.Errorf("it says %q", body)
	}
	return err
}

func (p pod) reloads(t *testing.T, result string, want float64) error {
	t.Helper()
	if got := p.metric(t, "evermore_reloads_total", `result="`+result+`"`); got != want {
		return fmt.Errorf("%s: %v reloads with the result %s", p.Metadata.Name, got, result)
	}
	return nil
}

// probes asks what the kubelet asks, and far more often.
type probes struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	failed  []string
}

func (n *namespace) probe(pods []pod) *probes {
	ctx, stop := context.WithCancel(context.Background())
	n.t.Cleanup(stop)
	asked := &probes{stop: stop}
	for _, p := range pods {
		for _, path := range []string{"/livez", "/readyz"} {
			asked.running.Go(func() {
				for {
					if status, text, err := p.http(9797, path); err != nil || status != http.StatusOK {
						asked.mu.Lock()
						asked.failed = append(asked.failed, fmt.Sprintf("%s %s of %s: %d %s %v",
							time.Now().Format("15:04:05.000"), path, p.Metadata.Name, status, text, err))
						asked.mu.Unlock()
					}
					select {
					case <-ctx.Done():
						return
					case <-time.After(50 * time.Millisecond):
					}
				}
			})
		}
	}
	return asked
}

// end gives the answers that were not 200.
func (p *probes) end() []string {
	p.stop()
	p.running.Wait()
	return p.failed
}

// With -i max a container has as many processes as its limit has processors.
func TestInstancesOfLimit(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.deploy(overlay{
		args:      []string{"node", "-e", "require('node:http').createServer((_, response) => response.end()).listen(3000)"},
		env:       map[string]string{"EVERMORE_INSTANCES": "max", "EVERMORE_HOLD": "3000", "EVERMORE_READY": "listening"},
		container: object{"resources": object{"limits": object{"cpu": "500m", "memory": "256Mi"}}},
	})
	p := n.awaitReady()
	if workers := p.metric(t, "evermore_workers", ""); workers != 1 {
		t.Errorf("half a processor has %v processes", workers)
	}
}
