package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPrometheus has a real Prometheus scrape an app that crashes, and asks it
// how often that was.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	needs(t, "prometheus", "promtool", "node")
	evermore := startCrasher(t)
	prometheus := startPrometheus(t, scrapes("1s", fmt.Sprintf("{targets: [%q]}", evermore.address)))

	// An increase is seen from a sample before it on.
	prometheus.await(`evermore_child_restarts_total{reason="exit"}`, 0)
	prometheus.await(`evermore_child_restarts_total{reason="signal"}`, 0)
	prometheus.await(`evermore_child_up`, 1)

	const exits, kills = 4, 3
	began := time.Now()
	for i := range exits + kills {
		evermore.crash(i%2 == 0)
	}
	took := time.Since(began)
	prometheus.await(`evermore_child_restarts_total{reason="exit"}`, exits)
	prometheus.await(`evermore_child_restarts_total{reason="signal"}`, kills)

	// increase() extrapolates to the ends of its window. It does not where the
	// window ends with a sample, and not below 0, which the first sample is.
	window := "1m"
	if took > 40*time.Second {
		window = "10m"
	}
	restarts := `evermore_child_restarts_total{worker="0"}`
	at := prometheus.lastSample(`evermore_child_restarts_total{reason="exit"}`)
	for _, ask := range []struct {
		query string
		want  float64
	}{
		{`sum(increase(` + restarts + `[` + window + `]))`, exits + kills},
		{`increase(evermore_child_restarts_total{reason="exit"}[` + window + `])`, exits},
		{`increase(evermore_child_restarts_total{reason="signal"}[` + window + `])`, kills},
		{`increase(evermore_child_exits_total{reason="exit",code="1"}[` + window + `])`, exits},
		{`increase(evermore_child_exits_total{reason="signal",code="137"}[` + window + `])`, kills},
		// The counters outlive the app, whose crashes they count.
		{`sum(resets(` + restarts + `[10m]))`, 0},
		{`resets(evermore_child_starts_total[10m])`, 0},
		{`sum(` + restarts + `)`, exits + kills},
		{`evermore_child_starts_total`, exits + kills + 1},
		{`count(evermore_build_info)`, 1},
		{`sum(evermore_child_state)`, 1},
	} {
		if got := prometheus.query(ask.query, at); math.Abs(got-ask.want) > 1e-9 {
			t.Errorf("%s is %v, not %v", ask.query, got, ask.want)
		}
	}
	for _, counter := range []string{`sum(` + restarts + `)`, `evermore_child_starts_total`} {
		if first, last := prometheus.ends(counter, at.Add(-10*time.Minute), at); last-first != exits+kills {
			t.Errorf("%s went from %v to %v, not by %d", counter, first, last, exits+kills)
		}
	}
	checkMetrics(t, evermore.address)
	if err := evermore.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	evermore.end(t, 128+int(syscall.SIGTERM))
}

// crasher is an evermore whose app ends when it is told to.
type crasher struct {
	*process
	t       *testing.T
	address string
	dir     string
	lives   int
}

func startCrasher(t *testing.T) *crasher {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	c := &crasher{t: t, dir: t.TempDir(), address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	app, err := filepath.Abs("testdata/prometheus/app.js")
	if err != nil {
		t.Fatal(err)
	}
	c.process = launch(t, plain, c.dir, filepath.Join(c.dir, "evermore"), append(os.Environ(), c.root()), "evermore",
		"--http", c.address, "--max-restarts", "0", "--min-uptime", "1ms", "--spin-sleep-time", "1ms", "--", "node", app)
	c.awaitUp()
	return c
}

// root has evermore count from 0, and not go on with the counts of an earlier test.
func (c *crasher) root() string { return "EVERMORE_ROOT=" + filepath.Join(c.dir, "root") }

// awaitUp waits for the next life of the app.
func (c *crasher) awaitUp() {
	c.t.Helper()
	c.lives++
	eventually(c.t, fmt.Sprintf("life %d of the app", c.lives), func() bool { return len(c.pids()) == c.lives })
}

func (c *crasher) pids() []string {
	text, _ := os.ReadFile(filepath.Join(c.dir, "pids"))
	return strings.Fields(string(text))
}

// crash ends the life of the app, by its own exit or by SIGKILL, and waits for
// the next.
func (c *crasher) crash(exit bool) {
	c.t.Helper()
	c.die(exit)
	c.awaitUp()
}

func (c *crasher) die(exit bool) {
	c.t.Helper()
	pids := c.pids()
	pid, err := strconv.Atoi(pids[len(pids)-1])
	if err != nil {
		c.t.Fatal(err)
	}
	s := syscall.SIGKILL
	if exit {
		s = syscall.SIGUSR2 // not by evermore, so that it is a crash
	}
	if err := syscall.Kill(pid, s); err != nil {
		c.t.Fatalf("ending life %d of the app: %v", c.lives, err)
	}
}

// prometheus is a running one.
type prometheus struct {
	t       *testing.T
	address string
}

// scrapes gives a configuration that scrapes the targets, each a static_config, as
// often as that.
func scrapes(interval string, targets ...string) string {
	return fmt.Sprintf("global: {scrape_interval: %s, scrape_timeout: %[1]s, evaluation_interval: 1s}\n"+
		"scrape_configs: [{job_name: evermore, static_configs: [%s]}]\n", interval, strings.Join(targets, ", "))
}

// startPrometheus starts one with a configuration.
func startPrometheus(t *testing.T, text string, args ...string) *prometheus {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := &prometheus{t: t, address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	c := launch(t, plain, dir, filepath.Join(dir, "prometheus"), os.Environ(), append([]string{
		"prometheus",
		"--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", p.address,
	}, args...)...)
	p.awaitReady(func() {
		if !c.running() {
			log, _ := os.ReadFile(c.stderr)
			t.Fatalf("Prometheus has ended:\n%s", log)
		}
	})
	return p
}

// awaitReady waits until it answers, and does the check while it doesn't.
func (p *prometheus) awaitReady(check func()) {
	p.t.Helper()
	eventually(p.t, "Prometheus is ready", func() bool {
		check()
		response, err := http.Get("http://" + p.address + "/-/ready")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// sample is a value at a moment, as Prometheus writes it.
type sample struct {
	at    time.Time
	value float64
}

func (s *sample) UnmarshalJSON(text []byte) error {
	var seconds float64
	var value string
	if err := json.Unmarshal(text, &[]any{&seconds, &value}); err != nil {
		return err
	}
	s.at = time.UnixMilli(int64(math.Round(seconds * 1000)))
	var err error
	s.value, err = strconv.ParseFloat(value, 64)
	return err
}

// series is what Prometheus answers: one sample or several.
type series struct {
	Metric map[string]string
	Value  sample
	Values []sample
}

func (p *prometheus) ask(path string, form url.Values) []series {
	p.t.Helper()
	var data struct{ Result []series }
	p.get(path, form, &data)
	return data.Result
}

// get reads the data of an answer of the API.
func (p *prometheus) get(path string, form url.Values, data any) {
	p.t.Helper()
	response, err := http.Get("http://" + p.address + path + "?" + form.Encode())
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	body, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	if err != nil || answer.Error != "" {
		p.t.Fatalf("asking %s for %v: %v %s", path, form, err, body)
	}
}

// query gives the one value of a query at a moment; NaN: there is none.
func (p *prometheus) query(query string, at time.Time) float64 {
	p.t.Helper()
	form := url.Values{"query": {query}}
	if !at.IsZero() {
		form.Set("time", seconds(at))
	}
	result := p.ask("/api/v1/query", form)
	switch len(result) {
	case 0:
		return math.NaN()
	case 1:
		return result[0].Value.value
	}
	p.t.Fatalf("%s gives %d values, not one", query, len(result))
	return 0
}

// await waits until the last sample is the value.
func (p *prometheus) await(query string, want float64) {
	p.t.Helper()
	var got float64
	if !poll(func() bool {
		got = p.query(query, time.Time{})
		return got == want
	}) {
		p.t.Fatalf("%s stays %v, not %v", query, got, want)
	}
}

// lastSample gives the moment of the last sample.
func (p *prometheus) lastSample(selector string) time.Time {
	p.t.Helper()
	result := p.ask("/api/v1/query", url.Values{"query": {selector + "[1m]"}})
	if len(result) != 1 {
		p.t.Fatalf("%s gives %d series, not one", selector, len(result))
	}
	samples := result[0].Values
	return samples[len(samples)-1].at
}

// ends gives the first and the last value of a query between two moments.
func (p *prometheus) ends(query string, from, to time.Time) (first, last float64) {
	p.t.Helper()
	result := p.ask("/api/v1/query_range", url.Values{"query": {query}, "start": {seconds(from)}, "end": {seconds(to)}, "step": {"1s"}})
	if len(result) != 1 {
		p.t.Fatalf("%s gives %d series, not one", query, len(result))
	}
	values := result[0].Values
	return values[0].value, values[len(values)-1].value
}

// seconds is a moment as Prometheus takes it: to the millisecond, as it has it.
func seconds(at time.Time) string {
	return strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', 3, 64)
}

// checkMetrics has promtool look at the names, types and help texts.
func checkMetrics(t *testing.T, address string) {
	t.Helper()
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = response.Body
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
