package metrics

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	pid1 "evermore/init"
	"evermore/reaper"
)

var update = flag.Bool("update", false, "write the golden files anew")

// app is a Source whose answers a test sets.
type app struct {
	snapshot atomic.Pointer[pid1.Snapshot]
	others   atomic.Pointer[[]*pid1.Snapshot] // further workers; nil: none
	ping     func(context.Context) error
	check    func(context.Context) (bool, string) // nil: what the snapshot says
}

func newApp(s pid1.Snapshot) *app {
	a := &app{ping: func(context.Context) error { return nil }}
	a.set(s)
	return a
}

func (a *app) set(s pid1.Snapshot)      { a.snapshot.Store(&s) }
func (a *app) Snapshot() *pid1.Snapshot { return a.snapshot.Load() }
func (a *app) Snapshots() []*pid1.Snapshot {
	all := []*pid1.Snapshot{a.Snapshot()}
	if others := a.others.Load(); others != nil {
		all = append(all, *others...)
	}
	return all
}
func (a *app) Ping(c context.Context) error { return a.ping(c) }

func (a *app) CheckReady(c context.Context) (bool, string) {
	if a.check != nil {
		return a.check(c)
	}
	s := a.Snapshot()
	return s.Ready, s.NotReady
}

// written are LogCounts.
type written struct{ stdout, stderr, errors, lost atomic.Uint64 }

func (w *written) Bytes(stream string) uint64 {
	if stream == "stdout" {
		return w.stdout.Load()
	}
	return w.stderr.Load()
}
func (w *written) Errors() uint64 { return w.errors.Load() }
func (w *written) Lost() uint64   { return w.lost.Load() }

// up is the snapshot of a healthy app whose process is this one.
func up() pid1.Snapshot {
	return pid1.Snapshot{
		State: pid1.StateRunning, PID: os.Getpid(), StartedAt: time.Now().Add(-time.Minute), Ready: true,
		Starts: 3, Restarts: 2, RestartsRemaining: 4,
		LastExit:   reaper.Exit{PID: 7, Signal: syscall.SIGSEGV, At: time.Unix(1700000000, 0)},
		LastExitAt: time.Unix(1700000000, 0), LastReason: pid1.ReasonSignal,
	}
}

// down is the snapshot of an app that has never run.
func down() pid1.Snapshot {
	return pid1.Snapshot{State: pid1.StatePreparing, NotReady: "the command of --before runs", RestartsRemaining: -1}
}

func newRegistry(src Source) (*prometheus.Registry, *Metrics, *written) {
	reg := prometheus.NewPedanticRegistry() // it finds series that were not described
	logs := new(written)
	return reg, New(reg, src, logs, Build{Version: "1.2.3", Revision: "abc"}), logs
}

// series gathers everything as name{label="value",...} and its value; of a
// histogram name_count and name_sum.
func series(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			in := "{" + strings.Join(labels, ",") + "}"
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				out[f.GetName()+in] = m.Counter.GetValue()
			case dto.MetricType_GAUGE:
				out[f.GetName()+in] = m.Gauge.GetValue()
			case dto.MetricType_HISTOGRAM:
				out[f.GetName()+"_count"+in] = float64(m.Histogram.GetSampleCount())
				out[f.GetName()+"_sum"+in] = m.Histogram.GetSampleSum()
			default:
				t.Fatalf("%s has the type %s, which is not meant to be", f.GetName(), f.GetType())
			}
		}
	}
	return out
}

// Names, types, help and labels are an interface: dashboards and alerts hang on
// them.
func TestGolden(t *testing.T) {
	reg, m, _ := newRegistry(newApp(up()))
	reg.MustRegister(NewBacklogs(func() []Backlog { return []Backlog{{Port: 3000, Limit: 511}} }))
	m.Pinged(0, time.Millisecond)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for _, f := range families {
		fmt.Fprintf(&got, "# HELP %s %s\n# TYPE %[1]s %[3]s\n", f.GetName(), f.GetHelp(), strings.ToLower(f.GetType().String()))
		var sets []string
		for _, m := range f.Metric {
			var names []string
			for _, l := range m.Label {
				names = append(names, l.GetName())
			}
			sets = append(sets, fmt.Sprintf("%s{%s}\n", f.GetName(), strings.Join(names, ",")))
		}
		slices.Sort(sets)
		for _, s := range slices.Compact(sets) {
			got.WriteString(s)
		}
	}
	const golden = "testdata/metrics.golden"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the series differ from %s (go test -update writes it anew):\n%s", golden, got.String())
	}
}

func TestPromtoolFindsNothing(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is missing: apt-get install prometheus")
		}
		t.Skip("promtool is missing")
	}
	reg, m, _ := newRegistry(newApp(up()))
	reg.MustRegister(NewBacklogs(func() []Backlog { return []Backlog{{Port: 3000, Limit: 511}, {Host: "::1", Port: 3000}} }))
	m.Pinged(0, time.Millisecond)
	for _, e := range allEvents() {
		m.Observe(e)
	}
	s := NewServer(newApp(up()), reg, ServerOptions{})
	body, err := s.gather()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(promtool, "check", "metrics")
	c.Stdin = body
	if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

func TestKnownLabelValuesStartAtZero(t *testing.T) {
	reg, _, _ := newRegistry(newApp(up()))
	got := series(t, reg)
	var want []string
	for _, r := range pid1.Reasons() {
		want = append(want, fmt.Sprintf(`evermore_child_restarts_total{reason=%q,worker="0"}`, r))
		if !slices.ContainsFunc(slices.Collect(keys(got)), func(s string) bool {
			return strings.HasPrefix(s, "evermore_child_exits_total{") && strings.Contains(s, fmt.Sprintf("reason=%q", r))
		}) {
			t.Errorf("evermore_child_exits_total has no series for the reason %s", r)
		}
	}
	for _, s := range []string{"SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT", "SIGTSTP"} {
		want = append(want, fmt.Sprintf(`evermore_signals_forwarded_total{signal=%q,worker="0"}`, s))
	}
	want = append(want,
		`evermore_child_starts_total{worker="0"}`,
		`evermore_child_exits_total{code="0",reason="exit",worker="0"}`,
		`evermore_child_exits_total{code="1",reason="exit",worker="0"}`,
		`evermore_child_exits_total{code="137",reason="oom",worker="0"}`,
		`evermore_child_exits_total{code="139",reason="signal",worker="0"}`,
		`evermore_child_exits_total{code="143",reason="request",worker="0"}`,
		`evermore_child_exits_total{code="127",reason="spawn",worker="0"}`,
		`evermore_child_run_duration_seconds_count{worker="0"}`,
		`evermore_reaped_orphans_total{}`,
		`evermore_zombies_found_total{}`,
		`evermore_warnings_total{}`,
		`evermore_http_bind_failures_total{}`,
		`evermore_oom_kills_total{}`,
		`evermore_stop_kills_total{worker="0"}`,
		`evermore_log_bytes_total{stream="stdout"}`,
		`evermore_log_bytes_total{stream="stderr"}`,
		`evermore_log_write_errors_total{}`,
		`evermore_reloads_total{result="ok"}`,
		`evermore_reloads_total{result="rolled_back"}`,
		`evermore_reloads_total{result="refused"}`,
		`evermore_reloads_total{result="failed"}`,
		`evermore_reload_duration_seconds_count{}`,
		`evermore_log_lines_lost_total{}`,
	)
	for _, name := range want {
		if v, ok := got[name]; !ok || v != 0 {
			t.Errorf("%s is %v (there: %v), want 0", name, v, ok)
		}
	}
	for name := range got {
		// A signal that cannot be forwarded needs no series.
		if strings.Contains(name, `"SIGKILL"`) || strings.Contains(name, `"SIGCHLD"`) {
			t.Errorf("there is a series %s", name)
		}
	}
}

func keys(m map[string]float64) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// counted is an event and the series that it changes.
type counted struct {
	name  string
	event pid1.Event
	want  map[string]float64
}

func countedEvents() []counted {
	return []counted{
		{"start", pid1.Event{Kind: pid1.Started}, map[string]float64{
			`evermore_child_starts_total{worker="0"}`: 1,
		}},
		{"restart", pid1.Event{Kind: pid1.Restarting, Reason: pid1.ReasonException}, map[string]float64{
			`evermore_child_restarts_total{reason="exception",worker="0"}`: 1,
		}},
		{"replacement", pid1.Event{Kind: pid1.Replaced, Reason: pid1.ReasonReload}, map[string]float64{
			`evermore_child_restarts_total{reason="reload",worker="0"}`: 1,
		}},
		{"reload", pid1.Event{Kind: pid1.Reloaded, Result: pid1.ReloadOK, Uptime: 3 * time.Second}, map[string]float64{
			`evermore_reloads_total{result="ok"}`:      1,
			`evermore_reload_duration_seconds_count{}`: 1,
			`evermore_reload_duration_seconds_sum{}`:   3,
		}},
		{"reload that was rolled back", pid1.Event{Kind: pid1.Reloaded, Result: pid1.ReloadRolledBack, Uptime: 30 * time.Second}, map[string]float64{
			`evermore_reloads_total{result="rolled_back"}`: 1,
		}},
		{"exit with an unusual code", pid1.Event{Kind: pid1.Exited, Reason: pid1.ReasonExit, Exit: reaper.Exit{Code: 42}, Uptime: 90 * time.Second}, map[string]float64{
			`evermore_child_exits_total{code="42",reason="exit",worker="0"}`: 1,
			`evermore_child_run_duration_seconds_count{worker="0"}`:          1,
			`evermore_child_run_duration_seconds_sum{worker="0"}`:            90,
		}},
		{"out of memory", pid1.Event{Kind: pid1.Exited, Reason: pid1.ReasonOOM, Exit: reaper.Exit{Signal: syscall.SIGKILL}, Uptime: time.Second}, map[string]float64{
			`evermore_child_exits_total{code="137",reason="oom",worker="0"}`: 1,
			`evermore_child_run_duration_seconds_count{worker="0"}`:          1,
			`evermore_child_run_duration_seconds_sum{worker="0"}`:            1,
		}},
		{"kills for want of memory", pid1.Event{Kind: pid1.OOMKilled, Count: 3}, map[string]float64{
			`evermore_oom_kills_total{}`: 3,
		}},
		{"failed start", pid1.Event{Kind: pid1.SpawnFailed, Reason: pid1.ReasonSpawn, Exit: reaper.Exit{Code: 127}}, map[string]float64{
			`evermore_child_exits_total{code="127",reason="spawn",worker="0"}`: 1,
		}},
		{"kill", pid1.Event{Kind: pid1.Killed, Signal: syscall.SIGKILL}, map[string]float64{
			`evermore_stop_kills_total{worker="0"}`: 1,
		}},
		{"signal", pid1.Event{Kind: pid1.Signalled, Signal: syscall.SIGTERM, SentAs: syscall.SIGINT}, map[string]float64{
			`evermore_signals_forwarded_total{signal="SIGINT",worker="0"}`: 1,
		}},
		{"real-time signal", pid1.Event{Kind: pid1.Signalled, Signal: 40, SentAs: 40}, map[string]float64{
			`evermore_signals_forwarded_total{signal="SIGRTMIN+6",worker="0"}`: 1,
		}},
		{"signal that is dropped", pid1.Event{Kind: pid1.Signalled, Signal: syscall.SIGTERM}, nil},
		{"orphan", pid1.Event{Kind: pid1.OrphanReaped}, map[string]float64{
			`evermore_reaped_orphans_total{}`: 1,
		}},
		{"zombie", pid1.Event{Kind: pid1.ZombieFound}, map[string]float64{
			`evermore_zombies_found_total{}`: 1,
		}},
		{"warning", pid1.Event{Kind: pid1.Warned}, map[string]float64{
			`evermore_warnings_total{}`: 1,
		}},
		{"ready", pid1.Event{Kind: pid1.Ready}, nil},
		{"end", pid1.Event{Kind: pid1.Stopped, Code: 3}, nil},
	}
}

func allEvents() []pid1.Event {
	var all []pid1.Event
	for _, c := range countedEvents() {
		all = append(all, c.event)
	}
	return all
}

func TestObserve(t *testing.T) {
	for _, c := range countedEvents() {
		t.Run(c.name, func(t *testing.T) {
			reg, m, _ := newRegistry(newApp(down()))
			before := series(t, reg)
			m.Observe(c.event)
			for name, v := range series(t, reg) {
				if strings.HasPrefix(name, "process_") {
					continue
				}
				if v != before[name]+c.want[name] {
					t.Errorf("%s went from %v to %v, want %v more", name, before[name], v, c.want[name])
				}
				delete(c.want, name)
			}
			for name := range c.want {
				t.Errorf("%s is missing", name)
			}
		})
	}
}

func TestCountsFromElsewhere(t *testing.T) {
	reg, m, logs := newRegistry(newApp(up()))
	m.NotBound()
	logs.stdout.Store(1 << 40)
	logs.stderr.Store(2)
	logs.errors.Store(3)
	logs.lost.Store(4)
	got := series(t, reg)
	for name, want := range map[string]float64{
		`evermore_http_bind_failures_total{}`:       1,
		`evermore_log_bytes_total{stream="stdout"}`: 1 << 40,
		`evermore_log_bytes_total{stream="stderr"}`: 2,
		`evermore_log_write_errors_total{}`:         3,
		`evermore_log_lines_lost_total{}`:           4,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

// missing marks a series that must not be there.
var missing = math.Inf(-1)

func TestSnapshot(t *testing.T) {
	started := time.UnixMilli(1700000000123)
	tests := map[string]struct {
		snap pid1.Snapshot
		want map[string]float64
	}{
		"never run": {down(), map[string]float64{
			"child_up": 0, "child_ready": 0, "child_start_time_seconds": missing, "child_uptime_seconds": 0,
			"child_last_exit_code": missing, "child_last_exit_timestamp_seconds": missing,
			"restart_backoff_seconds": 0, "restarts_remaining": missing, "child_spinning": 0,
		}},
		"running": {
			pid1.Snapshot{State: pid1.StateRunning, PID: 12, StartedAt: started, Ready: true, RestartsRemaining: 5},
			map[string]float64{
				"child_up": 1, "child_ready": 1, "child_start_time_seconds": 1700000000.123,
				"child_last_exit_code": missing, "restarts_remaining": 5, "child_spinning": 0,
			},
		},
		"up but not ready": {
			pid1.Snapshot{State: pid1.StateRunning, PID: 12, StartedAt: started, RestartsRemaining: -1},
			map[string]float64{"child_up": 1, "child_ready": 0, "restarts_remaining": missing},
		},
		"in back-off": {
			pid1.Snapshot{
				State: pid1.StateBackoff, Backoff: 1500 * time.Millisecond, Spinning: true, RestartsRemaining: 0,
				LastExit: reaper.Exit{Signal: syscall.SIGKILL}, LastExitAt: time.Unix(1700000009, 0),
			},
			map[string]float64{
				"child_up": 0, "child_start_time_seconds": missing, "child_uptime_seconds": 0,
				"child_last_exit_code": 137, "child_last_exit_timestamp_seconds": 1700000009,
				"restart_backoff_seconds": 1.5, "restarts_remaining": 0, "child_spinning": 1,
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			reg, _, _ := newRegistry(newApp(test.snap))
			got := series(t, reg)
			for name, want := range test.want {
				v, ok := got["evermore_"+name+`{worker="0"}`]
				switch {
				case want == missing && ok:
					t.Errorf("%s is there: %v", name, v)
				case want != missing && (!ok || v != want):
					t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
				}
			}
			for _, state := range pid1.States() {
				want := 0.0
				if state == test.snap.State {
					want = 1
				}
				if v, ok := got[fmt.Sprintf(`evermore_child_state{state=%q,worker="0"}`, state)]; !ok || v != want {
					t.Errorf("child_state of %s is %v (there: %v), want %v", state, v, ok, want)
				}
			}
		})
	}
}

// Each worker has series of its own, from 0 on. When it goes, what is true of it
// goes, and what was counted stays.
func TestWorkers(t *testing.T) {
	src := newApp(up())
	second := up()
	second.Worker, second.Ready, second.State = 1, false, pid1.StateStopping
	src.others.Store(&[]*pid1.Snapshot{&second})
	reg, m, _ := newRegistry(src)
	m.Observe(pid1.Event{Kind: pid1.Started, Worker: 2}) // it has just been asked for
	third := up()
	third.Worker = 2
	src.others.Store(&[]*pid1.Snapshot{&second, &third})
	m.Observe(pid1.Event{Kind: pid1.Restarting, Worker: 1, Reason: pid1.ReasonHang})
	m.Observe(pid1.Event{Kind: pid1.Signalled, Worker: 1, Signal: syscall.SIGHUP, SentAs: syscall.SIGHUP})
	m.Pinged(2, 250*time.Millisecond)
	got := series(t, reg)
	for name, want := range map[string]float64{
		`evermore_workers{}`:                                            3,
		`evermore_workers_ready{}`:                                      2,
		`evermore_child_ready{worker="0"}`:                              1,
		`evermore_child_ready{worker="1"}`:                              0,
		`evermore_child_ready{worker="2"}`:                              1,
		`evermore_child_state{state="stopping",worker="1"}`:             1,
		`evermore_child_state{state="stopping",worker="2"}`:             0,
		`evermore_child_starts_total{worker="1"}`:                       0,
		`evermore_child_starts_total{worker="2"}`:                       1,
		`evermore_child_restarts_total{reason="hang",worker="0"}`:       0,
		`evermore_child_restarts_total{reason="hang",worker="1"}`:       1,
		`evermore_child_exits_total{code="1",reason="exit",worker="2"}`: 0,
		`evermore_signals_forwarded_total{signal="SIGHUP",worker="1"}`:  1,
		`evermore_child_event_loop_ping_seconds_sum{worker="2"}`:        0.25,
		`evermore_child_event_loop_ping_seconds_count{worker="0"}`:      missing,
	} {
		if v, ok := got[name]; ok && v != want || ok == (want == missing) {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
	const process, counter = `evermore_child_process_resident_memory_bytes{worker="1"}`, `evermore_child_restarts_total{reason="hang",worker="1"}`
	if got[process] == 0 {
		t.Errorf("%s is missing", process)
	}

	src.others.Store(nil)
	got = series(t, reg)
	for name := range got {
		if of := strings.Contains(name, `worker="1"`); of && !strings.Contains(name, "_total{") && !strings.Contains(name, "_seconds_") {
			t.Errorf("%s is still there", name)
		}
	}
	if v := got[counter]; v != 1 || got[`evermore_workers{}`] != 1 || got[process] != 0 {
		t.Errorf("%s is %v; workers %v, memory %v", counter, v, got[`evermore_workers{}`], got[process])
	}
	src.others.Store(&[]*pid1.Snapshot{&second}) // a worker of that number comes again
	m.Observe(pid1.Event{Kind: pid1.Started, Worker: 1})
	if got = series(t, reg); got[counter] != 1 || got[process] == 0 {
		t.Errorf("%s is %v, memory %v", counter, got[counter], got[process])
	}
}

// A listener has series while it listens, and those of one port are told apart.
func TestBacklogs(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	list := []Backlog{{Port: 3000, Waiting: 2, Limit: 511}, {Host: "127.0.0.1", Port: 3000, Limit: 128}}
	reg.MustRegister(NewBacklogs(func() []Backlog { return list }))
	want := map[string]float64{
		`evermore_listener_backlog{host="",port="3000"}`:                2,
		`evermore_listener_backlog_limit{host="",port="3000"}`:          511,
		`evermore_listener_backlog{host="127.0.0.1",port="3000"}`:       0,
		`evermore_listener_backlog_limit{host="127.0.0.1",port="3000"}`: 128,
	}
	if got := series(t, reg); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	list = nil
	if got := series(t, reg); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

// What the processes tell of themselves takes a bounded time, and one that does not
// answer takes nothing from the others.
func TestRuntimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newApp(up())
		hangs, isDown := up(), down()
		hangs.Worker, isDown.Worker = 1, 2
		src.others.Store(&[]*pid1.Snapshot{&hangs, &isDown})
		heap := prometheus.NewDesc("nodejs_heap_size_used_bytes", "Heap.", []string{"worker"}, nil)
		var asked sync.Map
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(NewRuntimes(src, func(ch chan<- *prometheus.Desc) { ch <- heap },
			func(ctx context.Context, pid int, worker string, to chan<- prometheus.Metric) {
				asked.Store(worker, pid)
				if worker == "1" {
					<-ctx.Done()
					return
				}
				to <- prometheus.MustNewConstMetric(heap, prometheus.GaugeValue, 7, worker)
			}))
		begun := time.Now()
		got := series(t, reg)
		if took := time.Since(begun); took != tellTime {
			t.Errorf("it took %s", took)
		}
		if want := map[string]float64{`nodejs_heap_size_used_bytes{worker="0"}`: 7}; !maps.Equal(got, want) {
			t.Errorf("got %v", got)
		}
		if pid, _ := asked.Load("0"); pid != os.Getpid() {
			t.Errorf("process %v was asked", pid)
		}
		if _, ok := asked.Load("2"); ok {
			t.Error("one that is down was asked")
		}
	})
}

func TestUptimeGrows(t *testing.T) {
	s := up()
	s.StartedAt = time.Now()
	reg, _, _ := newRegistry(newApp(s))
	const name = `evermore_child_uptime_seconds{worker="0"}`
	first := series(t, reg)[name]
	for end := time.Now().Add(10 * time.Second); series(t, reg)[name] <= first; {
		if time.Now().After(end) {
			t.Fatalf("%s stays at %v", name, first)
		}
	}
}

// The child's own series come from a real process, and go with it.
func TestProcessOfTheChild(t *testing.T) {
	c := exec.Command(os.Args[0], "-test.run=^$")
	stdin, err := c.StdinPipe() // so that it can be told to end
	if err != nil {
		t.Fatal(err)
	}
	c.Env = append(os.Environ(), "METRICS_TEST_WAIT=1")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer stdin.Close()

	s := up()
	s.PID = c.Process.Pid
	src := newApp(s)
	reg, _, _ := newRegistry(src)
	names := []string{"cpu_seconds_total", "resident_memory_bytes", "virtual_memory_bytes", "start_time_seconds", "open_fds", "max_fds"}
	got := series(t, reg)
	for _, name := range names {
		if _, ok := got["process_"+name+"{}"]; !ok {
			t.Errorf("process_%s is missing", name)
		}
		if _, ok := got["evermore_child_process_"+name+`{worker="0"}`]; !ok {
			t.Errorf("evermore_child_process_%s is missing", name)
		}
	}
	if own, child := got["process_start_time_seconds{}"], got[`evermore_child_process_start_time_seconds{worker="0"}`]; own > child {
		t.Errorf("the child began at %v, before evermore at %v", child, own)
	}

	src.set(down())
	got = series(t, reg)
	for _, name := range names {
		if v, ok := got["evermore_child_process_"+name+`{worker="0"}`]; ok {
			t.Errorf("evermore_child_process_%s is %v while the child is down", name, v)
		}
		if _, ok := got["process_"+name+"{}"]; !ok {
			t.Errorf("process_%s is missing while the child is down", name)
		}
	}

	// A process that has gone since the snapshot is no error.
	gone := up()
	gone.PID = 1 << 30
	src.set(gone)
	series(t, reg)
}

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("METRICS_TEST_WAIT") != "" {
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The loop goes on counting while scrapes read: with -race this finds what is
// shared without care.
func TestObserveWhileScraped(t *testing.T) {
	src := newApp(up())
	reg, m, _ := newRegistry(src)
	const rounds = 200
	var wg sync.WaitGroup
	wg.Go(func() {
		for range rounds {
			for _, e := range allEvents() {
				m.Observe(e)
			}
			src.set(up())
		}
	})
	for range 2 {
		wg.Go(func() {
			for range 20 {
				if _, err := reg.Gather(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := series(t, reg)[`evermore_child_starts_total{worker="0"}`]; got != rounds {
		t.Errorf("%v starts were counted, want %v", got, rounds)
	}
}

// What is linked is paid for at each start, in time and in memory.
func TestLinksNoMoreThanNeeded(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("go list does not run: ", err)
	}
	for _, p := range []string{
		"database/sql", "net/http/pprof", "html/template",
		"github.com/prometheus/client_golang/prometheus/collectors",
		"github.com/prometheus/client_golang/prometheus/promhttp",
	} {
		if slices.Contains(strings.Fields(string(out)), p) {
			t.Errorf("%s is linked", p)
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	_, m, _ := newRegistry(newApp(up()))
	events := allEvents()
	b.ReportAllocs()
	for b.Loop() {
		for _, e := range events {
			m.Observe(e)
		}
	}
}

func BenchmarkScrape(b *testing.B) {
	reg, _, _ := newRegistry(newApp(up()))
	s := NewServer(newApp(up()), reg, ServerOptions{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.gather(); err != nil {
			b.Fatal(err)
		}
	}
}
