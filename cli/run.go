package cli

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"evermore/control"
	pid1 "evermore/init"
	"evermore/logs"
	"evermore/metrics"
	"evermore/reaper"
	"evermore/signals"
)

const (
	// flushTime is how long the end waits for a stderr that does not take
	// evermore's last lines, drainTime for the app's last output.
	flushTime = 100 * time.Millisecond
	drainTime = time.Second
)

// run supervises the app in the foreground, from its first start to its end, and
// gives evermore's exit code. Until the first start every error is one line and
// the end; from then on only the app's end is.
func run(s *settings) int {
	o, err := s.options()
	if err != nil {
		return s.fail(err)
	}
	if s.umask >= 0 {
		syscall.Umask(s.umask)
	}
	r := &running{settings: s}
	defer r.close()
	if err := r.open(&o); err != nil {
		return s.fail(err)
	}
	catcher, err := signals.Catch(caught(&o))
	if err != nil {
		return s.fail(err)
	}
	children, err := reaper.New()
	if err != nil {
		return s.fail(err)
	}
	for _, w := range s.warnings() {
		s.say(levelWarn, w)
	}
	r.catcher = catcher
	r.app = pid1.New(o, pid1.Kernel{Reaper: children}, catcher, r, r.lines)
	code, err := r.app.Run()
	if err != nil {
		return s.fail(&failure{code: code, err: err})
	}
	return code
}

// caught says what the signal handler does by itself: it forwards what has no
// other meaning. What means "stop" is the loop's, since a second one is not to
// reach the app.
func caught(o *pid1.Options) signals.Options {
	c := signals.Options{Group: o.SignalGroup && !o.Terminal, SharedTerminal: o.Terminal}
	for _, n := range signals.All() {
		if !signals.Forwardable(n) || o.StopSignals.Has(n) {
			continue
		}
		to, rewritten := o.Rewrite[n]
		if !rewritten {
			to = n
		}
		c.Direct[n] = uint8(to)
	}
	if o.Terminal {
		// The shell's job control goes for evermore and the app alike.
		c.Default = signals.SetOf(unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT)
	}
	return c
}

// running is what a run has open beside the app. As an observer it comes before
// the log lines: the first event finds the app started and everything else still
// to do.
type running struct {
	*settings
	app      *pid1.App
	catcher  *signals.Catcher
	output   *logs.Output
	queue    *logs.Queue
	lines    *logs.Lines
	pidOf    pidFile      // empty: none
	listener net.Listener // nil: no HTTP
	refused  error        // why the default address could not be listened on
	metrics  *metrics.Metrics
	server   *metrics.Server
	began    bool
	recorded chan func() // gives what removes the record of this supervisor
}

// open opens what was asked for, so that what can't be had is an error before
// anything runs.
func (r *running) open(o *pid1.Options) error {
	output, err := logs.Open(logs.Options{
		LogFile: r.logFile, OutFile: r.outFile, ErrFile: r.errFile, Append: r.appendLogs, Silent: r.silent,
		Failed: func(name string, err error) { r.warn(fmt.Errorf("cannot write the app's output to %s: %w", name, err)) },
	})
	if err != nil {
		return err
	}
	r.output = output
	files := output.Files()
	o.Command.Files = files[:]
	if r.pidFile != "" {
		r.pidOf = pidFile(r.pidFile)
		if err := r.pidOf.touch(); err != nil {
			return err
		}
	}
	if r.http != "" {
		r.listener, err = net.Listen("tcp", r.http)
		if err != nil && r.isGiven("http") {
			return &failure{code: 1, err: fmt.Errorf("%s: cannot listen on %s: %w", r.given["http"], r.http, cause(err)), hint: "--http off serves nothing, another ADDRESS serves there"}
		}
		r.refused = err
	}
	r.queue = logs.NewQueue(2, output.Log())
	r.lines = logs.NewLines(r.queue, logs.LinesOptions{
		Forever: r.program == "forever", JSON: r.logFormat == "json", Color: r.coloured(2), Verbose: r.verbose, Debug: r.debug,
	})
	return nil
}

// Observe is told of every event by the loop of the app.
func (r *running) Observe(e pid1.Event) {
	if !r.began {
		r.began = true
		r.begin()
	}
	if r.metrics != nil {
		r.metrics.Observe(e)
	}
	if e.Kind == pid1.Started && r.pidOf != "" {
		if err := r.pidOf.write(e.PID); err != nil {
			r.warn(err)
		}
	}
}

// begin does what could wait until the app was started.
func (r *running) begin() {
	keepThreads()
	if r.listener != nil {
		registry := prometheus.NewRegistry()
		r.metrics = metrics.New(registry, r.app, logCounts{r.output, r.queue, r.catcher}, buildOf())
		r.server = metrics.NewServer(r.app, registry, metrics.ServerOptions{
			LiveTimeout: r.settings.app.LiveTimeout,
			Log:         func(line string) { r.warn(fmt.Errorf("http: %s", line)) },
		})
		r.server.Serve(r.listener)
	}
	if r.refused != nil {
		r.warn(fmt.Errorf("no metrics and no probes: cannot listen on %s: %w", r.http, cause(r.refused)))
	}
	// A state folder may be on a disk that hangs.
	r.recorded = make(chan func(), 1)
	address := ""
	if r.listener != nil {
		address = r.listener.Addr().String()
	}
	go func() {
		remove, err := control.Register(control.Record{HTTP: address})
		if err != nil && r.form == script {
			r.warn(fmt.Errorf("this supervisor is not on record: %w", err))
		}
		r.recorded <- remove
	}()
}

// close ends everything but the process.
func (r *running) close() {
	if r.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), flushTime)
		defer cancel()
		_ = r.server.Stop(ctx) // what is cut was to be cut
	} else if r.listener != nil {
		r.listener.Close()
	}
	if r.recorded != nil {
		select {
		case remove := <-r.recorded:
			if remove != nil {
				remove()
			}
		case <-time.After(flushTime):
		}
	}
	if r.pidOf != "" {
		r.pidOf.remove()
	}
	if r.queue != nil {
		r.queue.Close(flushTime)
	}
	if r.output != nil {
		r.output.Close(drainTime)
	}
}

// warn tells of a failure that does not end supervision.
func (r *running) warn(err error) {
	r.lines.Observe(pid1.Event{Kind: pid1.Warned, Time: time.Now(), Err: err})
}

// logCounts are the counters of what is written to logs.
type logCounts struct {
	output  *logs.Output
	queue   *logs.Queue
	catcher *signals.Catcher
}

func (c logCounts) Bytes(stream string) uint64 { return c.output.Bytes(stream) }
func (c logCounts) Errors() uint64             { return c.output.Errors() }
func (c logCounts) Lost() uint64               { return c.queue.Lost() }

func buildOf() metrics.Build {
	v, rev := build()
	return metrics.Build{Version: v, Revision: rev}
}
