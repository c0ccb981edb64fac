package e2e

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"evermore/deploy/grafana"
)

// picture makes TestDashboard play its story for so long and draw it:
//
//	go test ./e2e -run TestDashboard -picture 10m
var picture = flag.Duration("picture", 0, "draw docs/dashboard.svg from a story of this length")

// TestDashboard asks a real Prometheus that scraped three real apps, to whom a few
// things happen, every question of the dashboard, and draws the answers.
func TestDashboard(t *testing.T) {
	t.Parallel()
	needs(t, "prometheus", "node")
	var fleet []*crasher
	var targets []string
	for i := range 3 {
		c := startShop(t)
		fleet = append(fleet, c)
		targets = append(targets, fmt.Sprintf("{targets: [%q], labels: {instance: shop-%d}}", c.address, i+1))
	}
	prometheus := startPrometheus(t, scrapes("1s", targets...))
	prometheus.await(`count(evermore_child_restarts_total{reason="exit"})`, 3)
	prometheus.await(`sum(evermore_child_ready)`, 3)
	drawn := &grafana.Picture{From: time.Now()}
	play(t, fleet)
	// Shown are the last words of the story, too.
	prometheus.await(`sum(evermore_child_restarts_total{reason="signal"})`, 1)
	prometheus.await(`sum(evermore_child_restarts_total{reason="request"})`, 3)
	prometheus.await(`sum(evermore_child_ready)`, 3)
	prometheus.await(`count(increase(evermore_child_event_loop_ping_seconds_count[10m]) > 0)`, 3)
	drawn.To = time.Now()

	// A step for each few pixels, and samples enough in it.
	drawn.Step = max(drawn.To.Sub(drawn.From)/150, 4*time.Second).Round(time.Second)
	// The last step ends with the story.
	drawn.From = drawn.To.Add(-drawn.To.Sub(drawn.From).Truncate(drawn.Step))
	interval := drawn.Step + time.Second // as Grafana has it, with a scrape a second
	if *picture == 0 {
		interval = 10 * time.Minute // all that happened is in what is asked about now
	}
	variables := strings.NewReplacer("$__rate_interval", fmt.Sprintf("%.0fs", interval.Seconds()),
		"$__range", fmt.Sprintf("%.0fs", drawn.To.Sub(drawn.From).Seconds()+10),
		"$job", "evermore", "$namespace", ".*", "$pod", ".*", "$instance", "shop-1|shop-2|shop-3")
	var empty error
	drawn.Ask = func(expr string, instant bool) ([]grafana.Series, error) {
		expr = variables.Replace(expr)
		answer := prometheus.ask("/api/v1/query", url.Values{"query": {expr}, "time": {seconds(drawn.To)}})
		if len(answer) == 0 && *picture == 0 {
			empty = errors.Join(empty, fmt.Errorf("nothing: %s", expr))
		}
		if !instant {
			answer = prometheus.ask("/api/v1/query_range", url.Values{
				"query": {expr}, "start": {seconds(drawn.From)}, "end": {seconds(drawn.To)}, "step": {drawn.Step.String()},
			})
		}
		var all []grafana.Series
		for _, s := range answer {
			if instant {
				s.Values = []sample{s.Value}
			}
			one := grafana.Series{Labels: s.Metric}
			for _, v := range s.Values {
				one.Points = append(one.Points, grafana.Point{At: v.at, Value: v.value})
			}
			all = append(all, one)
		}
		return all, nil
	}
	svg, err := drawn.Draw(grafana.Rows())
	if err := errors.Join(err, empty); err != nil {
		t.Fatal(err)
	}
	prometheus.ask("/api/v1/query", url.Values{"query": {variables.Replace(grafana.Firing)}})
	checkPicture(t, svg)
	if *picture > 0 {
		if err := os.WriteFile("../docs/dashboard.svg", svg, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// checkPicture sees whether it is an SVG with all panels.
func checkPicture(t *testing.T, svg []byte) {
	t.Helper()
	texts := map[string]bool{}
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
		if text, ok := token.(xml.CharData); ok {
			texts[string(text)] = true
		}
	}
	for _, row := range grafana.Rows() {
		for _, p := range row.Panels {
			if !texts[p.Title] {
				t.Errorf("the picture lacks %q", p.Title)
			}
		}
	}
	for _, want := range []string{"shop-1", "exit", "exit 1", "signal 137", "request", "SIGUSR1", "stdout", "ready"} {
		if !texts[want] {
			t.Errorf("no series in the picture is called %q", want)
		}
	}
}

// startShop starts an app with a life to show.
func startShop(t *testing.T) *crasher {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	held, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	c := &crasher{t: t, dir: t.TempDir(), address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	app, err := filepath.Abs("testdata/dashboard/app.js")
	if err != nil {
		t.Fatal(err)
	}
	spinning := []string{"--min-uptime", "1ms"} // no pauses: the test need not be slow
	if *picture > 0 {
		spinning = []string{"--min-uptime", "10s", "--spin-sleep-time", "1s", "--max-restarts", "20/1h"}
	}
	argv := append([]string{"evermore-static", "--http", c.address, "--timestamps", "--hold", strconv.Itoa(held), "--hang-timeout", "3s"}, spinning...)
	environment := append(os.Environ(), "PORT="+strconv.Itoa(held), c.root())
	c.process = launch(t, plain, c.dir, filepath.Join(c.dir, "evermore"), environment, append(argv, "--", "node", app)...)
	c.awaitUp()
	return c
}

// play has things happen to the three: at once, or spread over the time of the
// picture.
func play(t *testing.T, fleet []*crasher) {
	t.Helper()
	began := time.Now()
	at := func(share float64) {
		if *picture > 0 {
			<-time.After(time.Until(began.Add(time.Duration(share * float64(*picture)))))
		}
	}
	for i, c := range fleet {
		at(0.08 + 0.01*float64(i))
		if err := c.signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	at(0.18)
	fleet[1].crash(true)
	at(0.3)
	broken := filepath.Join(fleet[2].dir, "broken")
	if err := os.WriteFile(broken, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	fleet[2].die(true)
	eventually(t, "a life that fails at once", func() bool {
		_, err := os.Stat(filepath.Join(fleet[2].dir, "failed"))
		return err == nil
	})
	at(0.45)
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	fleet[2].awaitUp()
	for i, c := range fleet {
		at(0.65 + 0.04*float64(i))
		if err := c.signal(syscall.SIGHUP); err != nil { // forwarded: a request
			t.Fatal(err)
		}
		c.awaitUp()
	}
	at(0.88)
	fleet[0].crash(false)
	at(1)
}
