package e2e

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const rulesFile = "../deploy/prometheus/evermore.rules.yaml"

// TestAlerts has a real Prometheus with the rules watch an app that crashes and
// one that is restarted by request as often.
func TestAlerts(t *testing.T) {
	t.Parallel()
	needs(t, "prometheus", "node")
	crashing, asked := startCrasher(t), startCrasher(t)
	prometheus := startPrometheus(t,
		scrapes("500ms",
			fmt.Sprintf("{targets: [%q], labels: {instance: crashing}}", crashing.address),
			fmt.Sprintf("{targets: [%q], labels: {instance: asked}}", asked.address))+
			fmt.Sprintf("rule_files: [%q]\n", hurry(t, rulesFile)),
		"--query.lookback-delta", "5s")
	const crashes = 5
	// An increase is seen from a sample before it on.
	for _, reason := range []string{"exit", "signal", "request"} {
		prometheus.await(`count(evermore_child_restarts_total{reason="`+reason+`"})`, 2)
	}
	prometheus.alerts()

	for i := range crashes {
		crashing.crash(i%2 == 0)
		// A death by a signal that evermore forwarded is a request, not a crash.
		if err := asked.signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		asked.awaitUp()
	}
	eventually(t, "the alert of the crash loop", func() bool { return prometheus.alerts("EvermoreCrashLooping crashing") })
	if got := prometheus.query(`evermore_child_restarts_total{instance="asked", reason="request"}`, time.Time{}); got != crashes {
		t.Errorf("Prometheus has seen %v restarts by request, not %d", got, crashes)
	}
	eventually(t, "the end of the alert, as there are no more crashes", func() bool { return prometheus.alerts() })

	if err := crashing.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the alert of the evermore that has ended", func() bool { return prometheus.alerts("EvermoreGone crashing") })
}

// hurry gives a copy of a file of rules in which time passes sixty times as fast:
// each duration, of a range ([10m]) and of a pending alert (for: 5m), is divided by 60.
func hurry(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	fast := regexp.MustCompile(`(\[|\bfor: )(\d+[mhd])\b`).ReplaceAllStringFunc(string(text), func(s string) string {
		changed++
		before, duration := s[:strings.LastIndexAny(s, " [")+1], s[strings.LastIndexAny(s, " [")+1:]
		n, err := strconv.Atoi(duration[:len(duration)-1])
		if err != nil {
			t.Fatal(err)
		}
		seconds := map[byte]int{'m': 1, 'h': 60, 'd': 24 * 60}[duration[len(duration)-1]] * n
		return before + strconv.Itoa(seconds) + "s"
	})
	if changed < 10 {
		t.Fatalf("only %d durations were found in %s", changed, path)
	}
	copied := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(copied, []byte(fast), 0o644); err != nil {
		t.Fatal(err)
	}
	return copied
}

// alerts tells whether just these fire, each an alert and an instance. One that
// fires beside them fails the test.
func (p *prometheus) alerts(want ...string) bool {
	p.t.Helper()
	var data struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	p.get("/api/v1/alerts", url.Values{}, &data)
	fire := map[string]bool{}
	for _, a := range data.Alerts {
		if a.State == "firing" {
			fire[a.Labels["alertname"]+" "+a.Labels["instance"]] = true
		}
	}
	for _, name := range want {
		if !fire[name] {
			return false
		}
	}
	return len(fire) == len(want)
}
