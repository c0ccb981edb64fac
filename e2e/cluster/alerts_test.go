package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A release whose app dies at once is alerted of with the app's exit code, and the
// pods of the release before it, which go on, are not.
func TestAlertGivenUp(t *testing.T) {
	n := newNamespace(t)
	needs(t, "prometheus")
	n.deploy(overlay{})
	well := n.awaitReady()
	states := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { n.writeStates(w) }))
	t.Cleanup(states.Close)
	prometheus := n.prometheus(fmt.Sprintf("{ job_name: kube-state-metrics, honor_labels: true, static_configs: [{ targets: [%q] }] }",
		strings.TrimPrefix(states.URL, "http://")))
	prometheus.await(`count(evermore_build_info)`, "1")

	n.deploy(overlay{
		args: []string{"node", "-e", "process.exit(42)"},
		env:  map[string]string{"EVERMORE_MAX_RESTARTS": "1/10m"},
	})
	eventually(t, "the alert", func() error {
		for _, a := range prometheus.alerts() {
			if a.State != "firing" || a.Labels["alertname"] != "EvermoreGivenUp" {
				continue
			}
			if a.Labels["pod"] == well.Metadata.Name {
				t.Fatalf("it is about the pod that is well: %v", a.Labels)
			}
			if !strings.Contains(a.Annotations["description"], "exit code was 42 (Error)") {
				return fmt.Errorf("it says %q", a.Annotations["description"])
			}
			t.Log(a.Annotations["description"])
			return nil
		}
		return errors.New("it does not fire")
	})
	if p := n.pod(well.Metadata.Name); p.app().RestartCount != 0 || !p.app().Ready {
		t.Errorf("the pod that was well is not: %+v", p)
	}
}

// writeStates tells of the pods what kube-state-metrics would, as far as the rules
// ask for it: that is not to be had as a Go module.
func (n *namespace) writeStates(w http.ResponseWriter) {
	out, err := n.try(nil, "get", "pods", "--selector", "app.kubernetes.io/name=app", "--output", "json")
	var pods struct{ Items []pod }
	if err != nil || json.Unmarshal([]byte(out), &pods) != nil {
		http.Error(w, "the API server does not answer", http.StatusServiceUnavailable) // it asks again
		return
	}
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			tell := func(metric, labels string, value int) {
				fmt.Fprintf(w, "kube_pod_container_status_%s{namespace=%q,pod=%q,container=%q%s} %d\n", metric, n.name, p.Metadata.Name, c.Name, labels, value)
			}
			tell("restarts_total", "", c.RestartCount)
			if waiting := c.State.Waiting; waiting != nil {
				tell("waiting_reason", fmt.Sprintf(",reason=%q", waiting.Reason), 1)
			}
			if last := c.LastState.Terminated; last != nil {
				tell("last_terminated_reason", fmt.Sprintf(",reason=%q", last.Reason), 1)
				tell("last_terminated_exitcode", "", last.ExitCode)
			}
		}
	}
}

// alert is one that is pending or firing.
type alert struct {
	State               string
	Labels, Annotations map[string]string
}

func (p *prometheus) alerts() []alert {
	p.t.Helper()
	response, err := http.Get("http://" + p.address + "/api/v1/alerts")
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ Data struct{ Alerts []alert } }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		p.t.Fatal(err)
	}
	return answer.Data.Alerts
}
