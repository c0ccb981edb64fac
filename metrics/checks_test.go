package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	pid1 "evermore/init"
)

// get asks a server's handler without a network.
func get(s *Server, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.handle(w, httptest.NewRequest(http.MethodGet, target, nil))
	return w
}

// quietServer is one over an empty registry.
func quietServer(t *testing.T, src Source, o ServerOptions) *Server {
	s := NewServer(src, prometheus.NewRegistry(), o)
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	return s
}

// expect asks and compares.
func expect(t *testing.T, s *Server, target string, code int, body string) {
	t.Helper()
	w := get(s, target)
	if w.Code != code || w.Body.String() != body {
		t.Errorf("%s is %d %q, want %d %q", target, w.Code, w.Body, code, body)
	}
	if got := w.Header().Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("%s has the type %q", target, got)
	}
	if got := w.Header().Get("X-Content-Type-Options"); got != "nosniff" {
		t.Errorf("%s has X-Content-Type-Options %q", target, got)
	}
}

func TestReadyz(t *testing.T) {
	src := newApp(up())
	s := quietServer(t, src, ServerOptions{})
	expect(t, s, "/readyz", 200, "ok\n")
	expect(t, s, "/readyz?verbose", 200, "[+]ready ok\nreadyz check passed\n")

	src.set(pid1.Snapshot{State: pid1.StateBackoff, NotReady: "it is down, waiting to be started again"})
	expect(t, s, "/readyz", 503, "ready failed: it is down, waiting to be started again\n")
	expect(t, s, "/readyz?verbose=1", 503, "[-]ready failed: it is down, waiting to be started again\nreadyz check failed\n")

	src.set(pid1.Snapshot{State: pid1.StateRunning, NotReady: "two\nlines\x1b[31m "})
	expect(t, s, "/readyz", 503, "ready failed: two lines [31m\n")

	src.set(pid1.Snapshot{State: pid1.StateRunning})
	expect(t, s, "/readyz", 503, "ready failed: it does not say why\n")
}

// A stop that begins while the app is asked is seen from its first moment.
func TestReadyzSeesAStopWhileItAsks(t *testing.T) {
	src := newApp(up())
	src.check = func(context.Context) (bool, string) {
		src.set(pid1.Snapshot{State: pid1.StateStopping, PID: 1, NotReady: "it is being ended"})
		return true, ""
	}
	s := quietServer(t, src, ServerOptions{})
	expect(t, s, "/readyz", 503, "ready failed: it is being ended\n")
}

// An app that never answers does not hold a probe for ever.
func TestReadyzGivesUpWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newApp(up())
		src.check = func(ctx context.Context) (bool, string) {
			<-ctx.Done()
			return false, "it has not answered in time"
		}
		s := quietServer(t, src, ServerOptions{})
		began := time.Now()
		expect(t, s, "/readyz", 503, "ready failed: it has not answered in time\n")
		if d := time.Since(began); d != askTimeout {
			t.Errorf("it took %s, want %s", d, askTimeout)
		}
	})
}

func TestLivez(t *testing.T) {
	src := newApp(up())
	s := quietServer(t, src, ServerOptions{})
	expect(t, s, "/livez", 200, "ok\n")
	expect(t, s, "/livez?verbose", 200, "[+]loop ok\n[+]kill ok\n[+]readiness ok\nlivez check passed\n")

	// A child that is down is no reason to be restarted: evermore sees to it.
	src.set(pid1.Snapshot{State: pid1.StateBackoff, NotReady: "it is down"})
	expect(t, s, "/livez", 200, "ok\n")

	src.ping = func(context.Context) error { return errors.New("the app has ended") }
	expect(t, s, "/livez", 503, "loop failed: it does not answer: the app has ended\n")
	expect(t, s, "/livez?verbose", 503,
		"[-]loop failed: it does not answer: the app has ended\n[+]kill ok\n[+]readiness ok\nlivez check failed\n")
}

func TestLivezMissesThePing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newApp(up())
		src.ping = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		s := quietServer(t, src, ServerOptions{})
		began := time.Now()
		expect(t, s, "/livez", 503, "loop failed: it does not answer: context deadline exceeded\n")
		if d := time.Since(began); d != askTimeout {
			t.Errorf("it took %s, want %s", d, askTimeout)
		}
	})
}

// Of several processes one that survives SIGKILL is enough, and is named.
func TestLivezOfWorkers(t *testing.T) {
	src := newApp(up())
	stuck := pid1.Snapshot{Worker: 1, State: pid1.StateStopping, PID: 13, UnkillableSince: time.Now().Add(-time.Hour)}
	src.others.Store(&[]*pid1.Snapshot{{Worker: 2, State: pid1.StateBackoff}, &stuck})
	s := quietServer(t, src, ServerOptions{})
	expect(t, s, "/livez", 503, "kill failed: process 13 is still there 1h0m0s after SIGKILL\n")
	expect(t, s, "/readyz", 200, "ok\n")
}

func TestLivezAfterAKillThatDidNotHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		snap := pid1.Snapshot{State: pid1.StateStopping, PID: 12, NotReady: "it is being ended", UnkillableSince: time.Now()}
		s := quietServer(t, newApp(snap), ServerOptions{})
		time.Sleep(unkillableAfter)
		expect(t, s, "/livez", 200, "ok\n")
		time.Sleep(time.Second)
		expect(t, s, "/livez", 503, "kill failed: process 12 is still there 6s after SIGKILL\n")
	})
}

func TestLivezAfterTheLiveTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newApp(pid1.Snapshot{State: pid1.StateRunning, PID: 12, NotReady: "it has not said READY=1 yet", UnreadySince: time.Now()})
		s := quietServer(t, src, ServerOptions{LiveTimeout: 10 * time.Minute})
		forEver := quietServer(t, src, ServerOptions{})
		time.Sleep(10 * time.Minute)
		expect(t, s, "/livez", 200, "ok\n")
		time.Sleep(5 * time.Second)
		expect(t, s, "/livez", 503, "readiness failed: neither ready nor in back-off for 10m5s: it has not said READY=1 yet\n")
		expect(t, forEver, "/livez", 200, "ok\n")
	})
}

// What nobody has asked about for long may have changed: it is asked before it
// is condemned.
func TestLivezAsksBeforeItCondemns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newApp(pid1.Snapshot{State: pid1.StateRunning, PID: 12, NotReady: "not yet", UnreadySince: time.Now()})
		src.check = func(context.Context) (bool, string) { return true, "" }
		s := quietServer(t, src, ServerOptions{LiveTimeout: time.Minute})
		time.Sleep(time.Hour)
		expect(t, s, "/livez", 200, "ok\n")
	})
}

// A liveness probe does not wait for an app that hangs, nor pile up questions.
func TestLivezDoesNotWaitForTheApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newApp(up())
		var asked atomic.Int32
		src.check = func(ctx context.Context) (bool, string) {
			asked.Add(1)
			<-ctx.Done()
			return false, "it hangs"
		}
		s := quietServer(t, src, ServerOptions{LiveTimeout: time.Minute})
		began := time.Now()
		for range 5 {
			expect(t, s, "/livez", 200, "ok\n")
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("five probes took %s", d)
		}
		synctest.Wait()
		if n := asked.Load(); n != 1 {
			t.Errorf("the app was asked %d times at once", n)
		}
		time.Sleep(askTimeout)
		synctest.Wait()
		expect(t, s, "/livez", 200, "ok\n")
		synctest.Wait()
		if n := asked.Load(); n != 2 {
			t.Errorf("the app was asked %d times, want 2", n)
		}
	})
}

func TestHealthz(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newApp(pid1.Snapshot{State: pid1.StatePreparing, NotReady: "the command of --before runs", RestartsRemaining: -1})
		s := quietServer(t, src, ServerOptions{})
		ask := func(code int) map[string]any {
			t.Helper()
			w := get(s, "/healthz")
			if w.Code != code {
				t.Errorf("the status is %d, want %d", w.Code, code)
			}
			if got := w.Header().Get("Content-Type"); got != "application/json" {
				t.Errorf("the type is %q", got)
			}
			var out map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
				t.Fatalf("%v in:\n%s", err, w.Body)
			}
			return out
		}

		want := map[string]any{
			"ready": false, "live": true, "state": "preparing", "uptime_seconds": 0.0, "starts": 0.0, "restarts": 0.0,
			"spinning": false, "backoff_seconds": 0.0,
			"checks":  map[string]any{"loop": "ok", "kill": "ok", "readiness": "ok", "ready": "the command of --before runs"},
			"workers": []any{map[string]any{"worker": 0.0, "state": "preparing", "ready": false, "not_ready": "the command of --before runs", "restarts": 0.0}},
		}
		if got := ask(503); !reflect.DeepEqual(got, want) {
			t.Errorf("before the first run it is\n%v, want\n%v", got, want)
		}

		snap := up()
		snap.PID, snap.StartedAt, snap.Status = 12, time.Now(), "serving <1> request"
		snap.LastExitAt = time.Unix(1700000000, 0).UTC()
		src.set(snap)
		other := pid1.Snapshot{Worker: 3, State: pid1.StateBackoff, NotReady: "it is down\n", Restarts: 1}
		src.others.Store(&[]*pid1.Snapshot{&other})
		time.Sleep(1500 * time.Millisecond)
		want = map[string]any{
			"ready": true, "live": true, "state": "running", "pid": 12.0, "started_at": snap.StartedAt.Format(time.RFC3339Nano),
			"uptime_seconds": 1.5, "starts": 3.0, "restarts": 2.0, "restarts_remaining": 4.0,
			"spinning": false, "backoff_seconds": 0.0, "status": "serving <1> request",
			"last_exit": map[string]any{"at": "2023-11-14T22:13:20Z", "reason": "signal", "code": 139.0, "signal": "SIGSEGV"},
			"checks":    map[string]any{"loop": "ok", "kill": "ok", "readiness": "ok", "ready": "ok"},
			"workers": []any{
				map[string]any{"worker": 0.0, "state": "running", "pid": 12.0, "started_at": snap.StartedAt.Format(time.RFC3339Nano), "ready": true, "restarts": 2.0},
				map[string]any{"worker": 3.0, "state": "backoff", "ready": false, "not_ready": "it is down", "restarts": 1.0},
			},
		}
		if got := ask(200); !reflect.DeepEqual(got, want) {
			t.Errorf("of a running app it is\n%v, want\n%v", got, want)
		}

		snap.LastExitAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) // JSON has no such year
		src.set(snap)
		if w := get(s, "/healthz"); w.Code != 500 {
			t.Errorf("the status is %d, want 500", w.Code)
		}
	})
}

func TestIndexAndUnknownPages(t *testing.T) {
	s := quietServer(t, newApp(up()), ServerOptions{})
	expect(t, s, "/", 200, index)
	for _, target := range []string{"/debug/pprof/", "/metrics/", "/Metrics", "//metrics", "/x"} {
		expect(t, s, target, 404, "there is no such page; / lists what there is\n")
	}
	for _, page := range []string{"/metrics", "/livez", "/readyz", "/healthz"} {
		if !strings.Contains(index, "\n"+page+" ") {
			t.Errorf("the index does not name %s", page)
		}
	}
}

// half is a collector of which one of two series is broken.
type half struct{ good, bad *prometheus.Desc }

func (h half) Describe(ch chan<- *prometheus.Desc) { ch <- h.good; ch <- h.bad }
func (h half) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(h.good, prometheus.GaugeValue, 1)
	ch <- prometheus.NewInvalidMetric(h.bad, errors.New("two\nlines"))
}

// What can be had is served, since it is needed most when something is broken.
func TestMetricsServesWhatItHas(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(half{prometheus.NewDesc("good", "Good.", nil, nil), prometheus.NewDesc("bad", "Bad.", nil, nil)})
	var lines []string
	s := NewServer(newApp(up()), reg, ServerOptions{Log: func(line string) { lines = append(lines, line) }})
	defer s.Stop(t.Context())
	w := get(s, "/metrics")
	if w.Code != 200 || w.Body.String() != "# HELP good Good.\n# TYPE good gauge\ngood 1\n" {
		t.Errorf("it is %d %q", w.Code, w.Body)
	}
	if len(lines) != 1 || !strings.Contains(lines[0], "cannot collect all metrics") {
		t.Errorf("the log is %q", lines)
	}

	broken := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, errors.New("two\nlines") })
	s = NewServer(newApp(up()), broken, ServerOptions{})
	defer s.Stop(t.Context())
	expect(t, s, "/metrics", 500, "the metrics cannot be collected: two lines\n")

	empty := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return []*dto.MetricFamily{{}}, nil })
	s = NewServer(newApp(up()), empty, ServerOptions{})
	defer s.Stop(t.Context())
	if w := get(s, "/metrics"); w.Code != 500 || !strings.Contains(w.Body.String(), "MetricFamily has no metrics") {
		t.Errorf("of a family without a metric it is %d %q", w.Code, w.Body)
	}
}

// A client must not be able to fill the log.
func TestLogIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		w := &warner{log: func(line string) { lines = append(lines, line) }}
		for i := range 100 {
			w.warn("first %d", i)
		}
		time.Sleep(warnInterval)
		if n, err := w.Write([]byte("http: second\n")); n != 13 || err != nil {
			t.Errorf("Write gives %d, %v", n, err)
		}
		time.Sleep(warnInterval)
		w.warn("third")
		want := []string{"first 0", "second (and 99 more lines since the last one)", "third"}
		if !reflect.DeepEqual(lines, want) {
			t.Errorf("the lines are %q, want %q", lines, want)
		}
		(&warner{}).warn("nobody listens")
	})
}
