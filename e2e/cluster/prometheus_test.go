package cluster

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A real Prometheus scrapes each pod behind the Service.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	needs(t, "prometheus")
	n.deploy(overlay{replicas: 3, env: map[string]string{"EVERMORE_MIN_UPTIME": "100ms"}})
	prometheus := n.prometheus()
	prometheus.await(`count(evermore_child_ready == 1)`, "3")
	prometheus.await(`sum(evermore_child_restarts_total)`, "0")

	killed := n.pods()[1]
	n.kill(killed, 3000, "SIGKILL")
	n.kill(killed, 3000, "SIGKILL")
	prometheus.await(`sum(evermore_child_restarts_total)`, "2")
	prometheus.await(fmt.Sprintf(`sum(evermore_child_restarts_total{pod=%q, reason="signal"})`, killed.Metadata.Name), "2")
	prometheus.await(`count(evermore_child_ready == 1)`, "3")
	prometheus.await(`count(up == 1)`, "3")
}

// prometheus is one that scrapes what the Service app leads to.
type prometheus struct {
	t       *testing.T
	address string
}

// prometheus starts it with the rules of deploy/prometheus, and with further
// scrape_configs.
func (n *namespace) prometheus(scrapes ...string) *prometheus {
	n.t.Helper()
	// Debian's Prometheus cannot ask an API server: what it would find is told to it.
	found := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(n.targets())
	}))
	n.t.Cleanup(found.Close)
	dir := n.t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	rules, err := filepath.Abs("../../deploy/prometheus/evermore.rules.yaml")
	if err != nil {
		n.t.Fatal(err)
	}
	app := fmt.Sprintf("{ job_name: app, http_sd_configs: [{ url: %q, refresh_interval: 1s }] }", found.URL)
	text := fmt.Sprintf("global: { scrape_interval: 1s, evaluation_interval: 1s }\nrule_files: [%q]\nscrape_configs: [%s]\n",
		rules, strings.Join(append(scrapes, app), ", "))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	p := &prometheus{n.t, listener.Addr().String()}
	listener.Close()
	log := new(strings.Builder)
	cmd := exec.Command("prometheus", "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", p.address)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if n.t.Failed() {
			n.t.Log(log)
		}
	})
	return p
}

// targets are the addresses behind the Service, with the pod of each.
func (n *namespace) targets() any {
	var slices struct {
		Items []struct {
			Endpoints []struct {
				Addresses []string
				TargetRef struct{ Name string }
			}
		}
	}
	targets := []object{}
	out, err := n.try(nil, "get", "endpointslices", "--selector", "kubernetes.io/service-name=app", "--output", "json")
	if err != nil || json.Unmarshal([]byte(out), &slices) != nil {
		return targets // it asks again
	}
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			targets = append(targets, object{
				"targets": []string{endpoint.Addresses[0] + ":9797"},
				// As a PodMonitor has them.
				"labels": object{"namespace": n.name, "pod": endpoint.TargetRef.Name, "container": "app"},
			})
		}
	}
	return targets
}

// await waits until a query has one sample of that value.
func (p *prometheus) await(query, want string) {
	p.t.Helper()
	eventually(p.t, query, func() error {
		response, err := http.Get("http://" + p.address + "/api/v1/query?query=" + url.QueryEscape(query))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		var answer struct {
			Data struct{ Result []struct{ Value [2]any } }
		}
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
			return err
		}
		result := answer.Data.Result
		if len(result) != 1 || result[0].Value[1] != want {
			return fmt.Errorf("it is %v, not %s", result, want)
		}
		p.t.Logf("%s is %s", query, want)
		return nil
	})
}
