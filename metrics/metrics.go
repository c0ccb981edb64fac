// Package metrics shows an app to Prometheus, to probes and to people, by HTTP.
// It reads events and snapshots; it drives nothing.
package metrics

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pid1 "evermore/init"
	"evermore/reaper"
	"evermore/signals"
)

// Source is the app that is shown. *pid1.App and *pid1.Pool are ones.
type Source interface {
	// Snapshot gives what is true of the app now. It never waits.
	Snapshot() *pid1.Snapshot
	// Snapshots gives what is true of each of its processes that serves, by their
	// numbers. It never waits either.
	Snapshots() []*pid1.Snapshot
	// Ping comes back when the loop that owns the state has answered, or with
	// the context's error.
	Ping(context.Context) error
	// CheckReady tells whether the app is ready and, in a few words, why it is
	// not. It may ask the app itself, and so may last as long as the context.
	// Snapshots that are taken after it show its result.
	CheckReady(context.Context) (ok bool, why string)
}

// LogCounts are counts of what is written to logs, each since the start.
type LogCounts interface {
	// Bytes counts the child's output of a stream, "stdout" or "stderr", that
	// passed through evermore.
	Bytes(stream string) uint64
	// Errors counts the writes of the child's output that failed.
	Errors() uint64
	// Lost counts the lines of evermore's own log that its stderr did not take.
	Lost() uint64
}

// Build is which evermore this is.
type Build struct{ Version, Revision string }

// Metrics are the series that count events. The app tells it of each by Observe.
type Metrics struct {
	reg   prometheus.Registerer
	src   Source
	known map[int]bool // the workers that have series

	starts, restarts, exits, stopKills, signalsForwarded *prometheus.CounterVec
	runDuration, pings                                   *prometheus.HistogramVec
	oomKills, orphans, zombies, warnings, notBound       prometheus.Counter
	reloads                                              *prometheus.CounterVec
	reloadDuration                                       prometheus.Histogram
}

// New registers all series of evermore, of its app and of both their processes.
// It panics when one of them is registered already. What is one child's has the
// label worker: its number, "0" for the only one that there is.
func New(reg prometheus.Registerer, src Source, logs LogCounts, b Build) *Metrics {
	m := &Metrics{
		reg: reg, src: src, known: make(map[int]bool),
		starts:           counters("child_starts_total", "Runs of the child that began.", "worker"),
		restarts:         counters("child_restarts_total", "Starts of the child after its first one, by what caused them.", "worker", "reason"),
		exits:            counters("child_exits_total", "Runs of the child that ended or could not begin, by why and by exit code (128+n for signal n).", "worker", "reason", "code"),
		oomKills:         counter("oom_kills_total", "Processes of the control group that the kernel killed for want of memory, the child or others."),
		stopKills:        counters("stop_kills_total", "Times the child was sent SIGKILL because it had not ended.", "worker"),
		runDuration:      prometheus.NewHistogramVec(runDuration(), []string{"worker"}),
		pings:            prometheus.NewHistogramVec(pingDuration(), []string{"worker"}),
		signalsForwarded: counters("signals_forwarded_total", "Signals that were sent to the child because one arrived.", "worker", "signal"),
		reloads:          counters("reloads_total", "Replacements of all children by new ones, by how they ended.", "result"),
		reloadDuration:   prometheus.NewHistogram(reloadDuration()),
		orphans:          counter("reaped_orphans_total", "Exits reaped of processes that evermore did not start but adopted."),
		zombies:          counter("zombies_found_total", "Zombies found that their living parent did not reap."),
		warnings:         counter("warnings_total", "Failures that did not end supervision."),
		notBound:         counter("http_bind_failures_total", "Times the default HTTP address could not be listened on."),
	}
	reg.MustRegister(
		buildInfo(b),
		newSnapshots(src),
		m.starts, m.restarts, m.exits, m.oomKills, m.stopKills, m.runDuration, m.pings, m.signalsForwarded,
		m.reloads, m.reloadDuration, m.orphans, m.zombies, m.warnings, m.notBound,
		counterFunc("log_write_errors_total", "Writes of the children's output that failed.", nil, logs.Errors),
		counterFunc("log_lines_lost_total", "Lines of evermore's own log that its stderr did not take.", nil, logs.Lost),
	)
	for _, stream := range []string{"stdout", "stderr"} {
		reg.MustRegister(counterFunc("log_bytes_total",
			"Bytes of the children's output that passed through evermore; what goes straight to its target is not seen.",
			prometheus.Labels{"stream": stream},
			func() uint64 { return logs.Bytes(stream) }))
	}
	// This and that of each child are what the package collectors gives, without the
	// price of importing it at every start: it links database/sql and builds regular
	// expressions.
	reg.MustRegister(prometheus.NewProcessCollector(prometheus.ProcessCollectorOpts{})) //nolint:staticcheck // see above
	for _, r := range pid1.ReloadResults() {
		m.reloads.WithLabelValues(string(r))
	}
	for _, s := range src.Snapshots() {
		m.meet(s.Worker)
	}
	return m
}

// meet gives a worker its series, when it is seen for the first time.
func (m *Metrics) meet(worker int) {
	if m.known[worker] {
		return
	}
	m.known[worker] = true
	m.startAtZero(strconv.Itoa(worker))
	prometheus.WrapRegistererWith(prometheus.Labels{"worker": strconv.Itoa(worker)}, m.reg).MustRegister(
		prometheus.NewProcessCollector(prometheus.ProcessCollectorOpts{Namespace: "evermore_child", PidFn: pid(m.src, worker)})) //nolint:staticcheck // see New
}

// Observe counts an event. It does not block, and is to be called by one goroutine
// at a time.
func (m *Metrics) Observe(e pid1.Event) {
	m.meet(e.Worker)
	worker := strconv.Itoa(e.Worker)
	switch e.Kind {
	case pid1.Started:
		m.starts.WithLabelValues(worker).Inc()
	case pid1.Restarting, pid1.Replaced:
		m.restarts.WithLabelValues(worker, string(e.Reason)).Inc()
	case pid1.Exited:
		m.exits.WithLabelValues(worker, string(e.Reason), exitCode(e.Exit)).Inc()
		m.runDuration.WithLabelValues(worker).Observe(e.Uptime.Seconds())
	case pid1.SpawnFailed:
		m.exits.WithLabelValues(worker, string(e.Reason), exitCode(e.Exit)).Inc()
	case pid1.Killed:
		m.stopKills.WithLabelValues(worker).Inc()
	case pid1.Signalled:
		if e.SentAs != 0 {
			m.signalsForwarded.WithLabelValues(worker, signals.Name(e.SentAs)).Inc()
		}
	case pid1.Reloaded:
		m.reloads.WithLabelValues(string(e.Result)).Inc()
		if e.Result == pid1.ReloadOK {
			m.reloadDuration.Observe(e.Uptime.Seconds())
		}
	case pid1.OOMKilled:
		m.oomKills.Add(float64(e.Count))
	case pid1.OrphanReaped:
		m.orphans.Inc()
	case pid1.ZombieFound:
		m.zombies.Inc()
	case pid1.Warned:
		m.warnings.Inc()
	}
}

// Pinged counts how long the event loop of a worker took to answer.
func (m *Metrics) Pinged(worker int, after time.Duration) {
	m.pings.WithLabelValues(strconv.Itoa(worker)).Observe(after.Seconds())
}

// TakeUp adds what earlier supervisors of the app have counted: runs that began,
// kills for want of memory, SIGKILLs of a stop, restarts by reason, and ends by
// reason and code. Which worker's they were is not on file: they are added to the
// first one.
func (m *Metrics) TakeUp(starts, oomKills, stopKills int, restarts map[string]int, exits map[string]map[string]int) {
	const worker = "0"
	m.starts.WithLabelValues(worker).Add(float64(starts))
	m.oomKills.Add(float64(oomKills))
	m.stopKills.WithLabelValues(worker).Add(float64(stopKills))
	for reason, n := range restarts {
		m.restarts.WithLabelValues(worker, reason).Add(float64(n))
	}
	for reason, codes := range exits {
		for code, n := range codes {
			m.exits.WithLabelValues(worker, reason, code).Add(float64(n))
		}
	}
}

// NotBound counts that the default HTTP address could not be listened on.
func (m *Metrics) NotBound() { m.notBound.Inc() }

// startAtZero makes the series of a worker that are known beforehand. Prometheus sees an
// increase only from a series' second sample on: without a 0 before it, the
// first crash would not be seen.
func (m *Metrics) startAtZero(worker string) {
	m.starts.WithLabelValues(worker)
	m.stopKills.WithLabelValues(worker)
	m.runDuration.WithLabelValues(worker)
	for _, r := range pid1.Reasons() {
		m.restarts.WithLabelValues(worker, string(r))
		for _, code := range usualCodes(r) {
			m.exits.WithLabelValues(worker, string(r), strconv.Itoa(code))
		}
	}
	m.exits.WithLabelValues(worker, string(pid1.ReasonLost), unknownCode)
	// The real-time signals are left out: thirty more series, which nearly
	// nobody uses.
	for s := syscall.Signal(1); s < 32; s++ {
		if signals.Forwardable(s) {
			m.signalsForwarded.WithLabelValues(worker, signals.Name(s))
		}
	}
}

// usualCodes are the exit codes with which a run of that end usually ends. All
// pairs would be 3072 series.
func usualCodes(r pid1.Reason) []int {
	const signalled = 128
	switch r {
	case pid1.ReasonExit:
		return []int{0, 1}
	case pid1.ReasonException:
		return []int{1}
	case pid1.ReasonHeap: // node aborts
		return []int{signalled + int(syscall.SIGABRT)}
	case pid1.ReasonOOM:
		return []int{signalled + int(syscall.SIGKILL)}
	case pid1.ReasonSignal:
		return []int{
			signalled + int(syscall.SIGABRT), signalled + int(syscall.SIGKILL),
			signalled + int(syscall.SIGSEGV), signalled + int(syscall.SIGTERM),
		}
	case pid1.ReasonSpawn:
		return []int{126, 127}
	case pid1.ReasonLost:
		return nil
	default: // evermore ended it, or what it forwarded did: in good order, by SIGTERM or by SIGKILL
		return []int{0, signalled + int(syscall.SIGKILL), signalled + int(syscall.SIGTERM)}
	}
}

// runDuration has bounds that tell a crash at start, a crash loop, a leak of
// hours and a release of weeks apart.
func runDuration() prometheus.HistogramOpts {
	const (
		minute = 60
		hour   = 60 * minute
		day    = 24 * hour
	)
	return prometheus.HistogramOpts{
		Name:    "evermore_child_run_duration_seconds",
		Help:    "How long the child's runs lasted that have ended.",
		Buckets: []float64{1, 10, minute, 10 * minute, hour, 6 * hour, day, 7 * day, 30 * day},
	}
}

// pingDuration has bounds that tell an idle event loop, one that computes, and one
// that is about to be taken to hang apart. A gauge would miss what was between two
// scrapes.
func pingDuration() prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name:    "evermore_child_event_loop_ping_seconds",
		Help:    "How long the child's event loop took to answer evermore's pings; absent without --hang-timeout.",
		Buckets: []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30},
	}
}

// reloadDuration is of the reloads that succeeded: how long the others took tells
// of --ready-timeout.
func reloadDuration() prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name:    "evermore_reload_duration_seconds",
		Help:    "How long the replacements of all children lasted that succeeded.",
		Buckets: []float64{0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600},
	}
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: "evermore_" + name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "evermore_" + name, Help: help}, labels)
}

func counterFunc(name, help string, labels prometheus.Labels, count func() uint64) prometheus.CounterFunc {
	return prometheus.NewCounterFunc(
		prometheus.CounterOpts{Name: "evermore_" + name, Help: help, ConstLabels: labels},
		func() float64 { return float64(count()) },
	)
}

func buildInfo(b Build) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "evermore_build_info",
		Help: "Which evermore this is; always 1.",
		ConstLabels: prometheus.Labels{
			"version": b.Version, "revision": b.Revision, "goversion": runtime.Version(),
		},
	})
	g.Set(1)
	return g
}

// pid gives the process of a worker to a process collector.
func pid(src Source, worker int) func() (int, error) {
	down := errors.New("the child is down")
	return func() (int, error) {
		for _, s := range src.Snapshots() {
			if s.Worker == worker && s.PID != 0 {
				return s.PID, nil
			}
		}
		return 0, down
	}
}

// snapshots shows one snapshot of each worker a scrape, so that its series agree.
type snapshots struct {
	src Source

	workers, workersReady                   *prometheus.Desc
	up, ready, state, startTime, uptime     *prometheus.Desc
	lastExitCode, lastExitTime              *prometheus.Desc
	backoff, restartsRemaining, nowSpinning *prometheus.Desc
}

func newSnapshots(src Source) *snapshots {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("evermore_"+name, help, labels, nil)
	}
	child := func(name, help string, labels ...string) *prometheus.Desc {
		return desc(name, help, append([]string{"worker"}, labels...)...)
	}
	return &snapshots{
		src:               src,
		workers:           desc("workers", "Children that there are to be."),
		workersReady:      desc("workers_ready", "Children that are up and ready."),
		up:                child("child_up", "Whether the child runs."),
		ready:             child("child_ready", "Whether the child is up and ready."),
		state:             child("child_state", "Where the child is in its life: 1 for that state, 0 for the others.", "state"),
		startTime:         child("child_start_time_seconds", "When the run began, in seconds since 1970; absent while the child is down."),
		uptime:            child("child_uptime_seconds", "How long the run has lasted; 0 while the child is down."),
		lastExitCode:      child("child_last_exit_code", "Exit code of the last run (128+n for signal n); absent until a run has ended."),
		lastExitTime:      child("child_last_exit_timestamp_seconds", "When the last run ended, in seconds since 1970; absent until a run has ended."),
		backoff:           child("restart_backoff_seconds", "The pause before the next start that is being waited for; 0 when there is none."),
		restartsRemaining: child("restarts_remaining", "How many restarts the limits still allow; absent without a limit."),
		nowSpinning:       child("child_spinning", "Whether the last run ended before its least uptime and none has lasted since."),
	}
}

// Describe implements prometheus.Collector.
func (c *snapshots) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.workers, c.workersReady, c.up, c.ready, c.state, c.startTime, c.uptime, c.lastExitCode, c.lastExitTime,
		c.backoff, c.restartsRemaining, c.nowSpinning,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *snapshots) Collect(ch chan<- prometheus.Metric) {
	all, ready := c.src.Snapshots(), 0
	for _, s := range all {
		if s.Ready {
			ready++
		}
		c.collect(ch, s)
	}
	ch <- prometheus.MustNewConstMetric(c.workers, prometheus.GaugeValue, float64(len(all)))
	ch <- prometheus.MustNewConstMetric(c.workersReady, prometheus.GaugeValue, float64(ready))
}

// collect sends the series of one worker.
func (c *snapshots) collect(ch chan<- prometheus.Metric, s *pid1.Snapshot) {
	worker := strconv.Itoa(s.Worker)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{worker}, labels...)...)
	}
	gauge(c.up, truth(s.PID != 0))
	gauge(c.ready, truth(s.Ready))
	for _, state := range pid1.States() {
		gauge(c.state, truth(s.State == state), string(state))
	}
	if s.StartedAt.IsZero() {
		gauge(c.uptime, 0)
	} else {
		gauge(c.startTime, unix(s.StartedAt))
		gauge(c.uptime, time.Since(s.StartedAt).Seconds())
	}
	if !s.LastExitAt.IsZero() {
		if !s.LastExit.Unknown {
			gauge(c.lastExitCode, float64(s.LastExit.Status()))
		}
		gauge(c.lastExitTime, unix(s.LastExitAt))
	}
	gauge(c.backoff, s.Backoff.Seconds())
	if s.RestartsRemaining >= 0 {
		gauge(c.restartsRemaining, float64(s.RestartsRemaining))
	}
	gauge(c.nowSpinning, truth(s.Spinning))
}

// truth is a gauge's way to say yes and no.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// unix gives seconds since 1970, to the millisecond.
func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// exitCode is the label for how a process ended.
func exitCode(e reaper.Exit) string {
	if e.Unknown {
		return unknownCode
	}
	return strconv.Itoa(e.Status())
}

// unknownCode is the label of an end whose exit code nobody knows.
const unknownCode = "unknown"
