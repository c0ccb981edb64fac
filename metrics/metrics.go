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

// Source is the app that is shown. *pid1.App is one.
type Source interface {
	// Snapshot gives what is true of the app now. It never waits.
	Snapshot() *pid1.Snapshot
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

// Metrics are the series that count events. The goroutine that owns the app's
// state tells it of each by Observe.
type Metrics struct {
	starts, oomKills, stopKills prometheus.Counter
	restarts, exits             *prometheus.CounterVec
	runDuration                 prometheus.Histogram
	signalsForwarded            *prometheus.CounterVec
	orphans, zombies            prometheus.Counter
	warnings, notBound          prometheus.Counter
}

// New registers all series of evermore, of its app and of both their processes.
// It panics when one of them is registered already. What is one child's has the
// label worker, which is "0" for the only child there is.
func New(reg prometheus.Registerer, src Source, logs LogCounts, b Build) *Metrics {
	// Labels given to the series themselves cost a scrape half as much as those
	// of prometheus.WrapRegistererWith, which makes all descriptions anew each time.
	child := prometheus.Labels{"worker": "0"}
	m := &Metrics{
		starts:           counter("child_starts_total", "Runs of the child that began.", child),
		restarts:         counters("child_restarts_total", "Starts of the child after its first one, by what caused them.", child, "reason"),
		exits:            counters("child_exits_total", "Runs of the child that ended or could not begin, by why and by exit code (128+n for signal n).", child, "reason", "code"),
		oomKills:         counter("oom_kills_total", "Processes of the control group that the kernel killed for want of memory, the child or others.", nil),
		stopKills:        counter("stop_kills_total", "Times the child was sent SIGKILL because it had not ended.", child),
		runDuration:      prometheus.NewHistogram(runDuration(child)),
		signalsForwarded: counters("signals_forwarded_total", "Signals that were sent to the child because one arrived.", child, "signal"),
		orphans:          counter("reaped_orphans_total", "Exits reaped of processes that evermore did not start but adopted.", nil),
		zombies:          counter("zombies_found_total", "Zombies found that their living parent did not reap.", nil),
		warnings:         counter("warnings_total", "Failures that did not end supervision.", nil),
		notBound:         counter("http_bind_failures_total", "Times the default HTTP address could not be listened on.", nil),
	}
	m.startAtZero()
	reg.MustRegister(
		buildInfo(b),
		newSnapshots(src, child),
		m.starts, m.restarts, m.exits, m.oomKills, m.stopKills, m.runDuration, m.signalsForwarded,
		m.orphans, m.zombies, m.warnings, m.notBound,
		counterFunc("log_write_errors_total", "Writes of the child's output that failed.", child, logs.Errors),
		counterFunc("log_lines_lost_total", "Lines of evermore's own log that its stderr did not take.", nil, logs.Lost),
	)
	for _, stream := range []string{"stdout", "stderr"} {
		reg.MustRegister(counterFunc("log_bytes_total",
			"Bytes of the child's output that passed through evermore; what goes straight to its target is not seen.",
			prometheus.Labels{"worker": child["worker"], "stream": stream},
			func() uint64 { return logs.Bytes(stream) }))
	}
	// These are what the package collectors gives, without the price of importing
	// it at every start: it links database/sql and builds regular expressions.
	reg.MustRegister(prometheus.NewProcessCollector(prometheus.ProcessCollectorOpts{})) //nolint:staticcheck // see above
	prometheus.WrapRegistererWith(child, reg).MustRegister(
		prometheus.NewProcessCollector(prometheus.ProcessCollectorOpts{Namespace: "evermore_child", PidFn: pid(src)})) //nolint:staticcheck // see above
	return m
}

// Observe counts an event. It does not block.
func (m *Metrics) Observe(e pid1.Event) {
	switch e.Kind {
	case pid1.Started:
		m.starts.Inc()
	case pid1.Restarting:
		m.restarts.WithLabelValues(string(e.Reason)).Inc()
	case pid1.Exited:
		m.exits.WithLabelValues(string(e.Reason), exitCode(e.Exit)).Inc()
		m.runDuration.Observe(e.Uptime.Seconds())
	case pid1.SpawnFailed:
		m.exits.WithLabelValues(string(e.Reason), exitCode(e.Exit)).Inc()
	case pid1.Killed:
		m.stopKills.Inc()
	case pid1.Signalled:
		if e.SentAs != 0 {
			m.signalsForwarded.WithLabelValues(signals.Name(e.SentAs)).Inc()
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

// TakeUp adds what earlier supervisors of the app have counted: runs that began,
// kills for want of memory, SIGKILLs of a stop, restarts by reason, and ends by
// reason and code.
func (m *Metrics) TakeUp(starts, oomKills, stopKills int, restarts map[string]int, exits map[string]map[string]int) {
	m.starts.Add(float64(starts))
	m.oomKills.Add(float64(oomKills))
	m.stopKills.Add(float64(stopKills))
	for reason, n := range restarts {
		m.restarts.WithLabelValues(reason).Add(float64(n))
	}
	for reason, codes := range exits {
		for code, n := range codes {
			m.exits.WithLabelValues(reason, code).Add(float64(n))
		}
	}
}

// NotBound counts that the default HTTP address could not be listened on.
func (m *Metrics) NotBound() { m.notBound.Inc() }

// startAtZero makes the series that are known beforehand. Prometheus sees an
// increase only from a series' second sample on: without a 0 before it, the
// first crash would not be seen.
func (m *Metrics) startAtZero() {
	for _, r := range pid1.Reasons() {
		m.restarts.WithLabelValues(string(r))
		for _, code := range usualCodes(r) {
			m.exits.WithLabelValues(string(r), strconv.Itoa(code))
		}
	}
	m.exits.WithLabelValues(string(pid1.ReasonLost), unknownCode)
	// The real-time signals are left out: thirty more series, which nearly
	// nobody uses.
	for s := syscall.Signal(1); s < 32; s++ {
		if signals.Forwardable(s) {
			m.signalsForwarded.WithLabelValues(signals.Name(s))
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
func runDuration(labels prometheus.Labels) prometheus.HistogramOpts {
	const (
		minute = 60
		hour   = 60 * minute
		day    = 24 * hour
	)
	return prometheus.HistogramOpts{
		Name:        "evermore_child_run_duration_seconds",
		Help:        "How long the child's runs lasted that have ended.",
		ConstLabels: labels,
		Buckets:     []float64{1, 10, minute, 10 * minute, hour, 6 * hour, day, 7 * day, 30 * day},
	}
}

func counter(name, help string, labels prometheus.Labels) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: "evermore_" + name, Help: help, ConstLabels: labels})
}

func counters(name, help string, labels prometheus.Labels, names ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "evermore_" + name, Help: help, ConstLabels: labels}, names)
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

// pid gives the child's process to a process collector.
func pid(src Source) func() (int, error) {
	down := errors.New("the child is down")
	return func() (int, error) {
		if pid := src.Snapshot().PID; pid != 0 {
			return pid, nil
		}
		return 0, down
	}
}

// snapshots shows one snapshot a scrape, so that its series agree.
type snapshots struct {
	src Source

	up, ready, state, startTime, uptime     *prometheus.Desc
	lastExitCode, lastExitTime              *prometheus.Desc
	backoff, restartsRemaining, nowSpinning *prometheus.Desc
}

func newSnapshots(src Source, labels prometheus.Labels) *snapshots {
	desc := func(name, help string, names ...string) *prometheus.Desc {
		return prometheus.NewDesc("evermore_"+name, help, names, labels)
	}
	return &snapshots{
		src:               src,
		up:                desc("child_up", "Whether the child runs."),
		ready:             desc("child_ready", "Whether the child is up and ready."),
		state:             desc("child_state", "Where the child is in its life: 1 for that state, 0 for the others.", "state"),
		startTime:         desc("child_start_time_seconds", "When the run began, in seconds since 1970; absent while the child is down."),
		uptime:            desc("child_uptime_seconds", "How long the run has lasted; 0 while the child is down."),
		lastExitCode:      desc("child_last_exit_code", "Exit code of the last run (128+n for signal n); absent until a run has ended."),
		lastExitTime:      desc("child_last_exit_timestamp_seconds", "When the last run ended, in seconds since 1970; absent until a run has ended."),
		backoff:           desc("restart_backoff_seconds", "The pause before the next start that is being waited for; 0 when there is none."),
		restartsRemaining: desc("restarts_remaining", "How many restarts the limits still allow; absent without a limit."),
		nowSpinning:       desc("child_spinning", "Whether the last run ended before its least uptime and none has lasted since."),
	}
}

// Describe implements prometheus.Collector.
func (c *snapshots) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.up, c.ready, c.state, c.startTime, c.uptime, c.lastExitCode, c.lastExitTime,
		c.backoff, c.restartsRemaining, c.nowSpinning,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *snapshots) Collect(ch chan<- prometheus.Metric) {
	s := c.src.Snapshot()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
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
