package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"evermore/control"
	"evermore/early"
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
	drainTime = 3 * time.Second
	// processors is how many threads run Go code at a time.
	processors = 2
)

// run supervises the app in the foreground, from its first start to its end, and
// gives evermore's exit code. Until the first start every error is one line and
// the end; from then on only the app's end is. first, when not nil, is the first
// start: it has been made already.
func run(s *settings, first *early.Start) int {
	r := &running{settings: s}
	defer r.close()
	if err := r.start(first); err != nil {
		return s.fail(err)
	}
	r.serve()
	return r.app.Run()
}

// start starts the app.
func (r *running) start(first *early.Start) error {
	o, err := r.options()
	if err != nil {
		return err
	}
	if r.umask >= 0 {
		syscall.Umask(r.umask)
	}
	if err := r.open(&o); err != nil {
		return err
	}
	// A supervisor needs no more, however large its host is, and each costs memory.
	if runtime.GOMAXPROCS(0) > processors {
		runtime.GOMAXPROCS(processors)
	}
	var kernel pid1.Kernel
	if first != nil {
		kernel.Reaper, r.catcher = first.Reaper, first.Catcher
		kernel.First = func() (*reaper.Process, error) { return first.Process, first.Err }
	} else {
		early.KeepThreads()
		if r.catcher, err = signals.Catch(caught(&o)); err != nil {
			return err
		}
		if kernel.Reaper, err = reaper.New(); err != nil {
			return err
		}
	}
	for _, w := range append(r.warnings(), misspelt(os.Environ())...) {
		r.say(levelWarn, w)
	}
	r.app = pid1.New(o, &kernel, r.catcher, r, r.lines)
	if code, err := r.app.Start(); err != nil {
		hint := ""
		if r.form == container && strings.HasPrefix(r.argv[0], "-") {
			hint = "options stand before --, or are variables: EVERMORE_HTTP=off"
		}
		return &failure{code: code, err: err, hint: hint}
	}
	return nil
}

// caught says which signals are caught, and what the handler does by itself.
func caught(o *pid1.Options) signals.Options {
	c := signals.Forwarding(o.StopSignals, o.Rewrite)
	c.Group = o.SignalGroup && !o.Terminal
	if o.Terminal {
		// The shell's job control goes for evermore and the app alike.
		c.SharedTerminal = true
		c.Default = signals.SetOf(unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT)
	}
	return c
}

// running is what a run has open beside the app.
type running struct {
	*settings
	app      *pid1.App
	catcher  *signals.Catcher
	output   *logs.Output
	queue    *logs.Queue
	lines    *logs.Lines
	pidOf    pidFile          // empty: none
	listener net.Listener     // nil: no HTTP
	refused  error            // why the default address could not be listened on
	metrics  *metrics.Metrics // nil: none, or not yet
	server   *metrics.Server
	serving  bool         // what could wait is there
	early    []pid1.Event // what happened before
	recorded chan func()  // gives what removes the record of this supervisor
	modes    *terminalModes
}

// open opens what was asked for, so that what can't be had is an error before
// anything runs.
func (r *running) open(o *pid1.Options) error {
	ready := make(chan struct{}) // the copying of output has begun before there are lines to tell of it
	output, err := logs.Open(logs.Options{
		LogFile: r.logFile, OutFile: r.outFile, ErrFile: r.errFile, Append: r.appendLogs, Silent: r.silent,
		Failed: func(name string, err error) {
			<-ready
			r.warn(fmt.Errorf("cannot write the app's output to %s: %w", name, err))
		},
	})
	if err != nil {
		return err
	}
	r.output = output
	files := output.Files()
	o.Command.Files = files[:]
	if o.Terminal {
		r.modes = modesOf(0)
	}
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
	close(ready)
	return nil
}

// Observe is told of every event by the loop of the app.
func (r *running) Observe(e pid1.Event) {
	switch {
	case r.metrics != nil:
		r.metrics.Observe(e)
	case !r.serving:
		r.early = append(r.early, e)
	}
	if e.Kind == pid1.Started && r.pidOf != "" {
		if err := r.pidOf.write(e.PID); err != nil {
			r.warn(err)
		}
	}
	if e.Kind == pid1.Exited {
		r.modes.restore(0)
	}
}

// serve does what could wait until the app was started.
func (r *running) serve() {
	r.serving = true
	address := ""
	if r.listener != nil {
		address = r.listener.Addr().String()
	}
	if r.http != "" {
		r.observe()
	}
	r.early = nil
	if r.refused != nil {
		r.metrics.NotBound()
		r.warn(fmt.Errorf("no metrics and no probes: cannot listen on %s: %w", r.http, cause(r.refused)))
	}
	// A state folder may be on a disk that hangs.
	r.recorded = make(chan func(), 1)
	go func() {
		remove, err := control.Register(control.Record{HTTP: address})
		if err != nil && r.form == script {
			r.warn(fmt.Errorf("this supervisor is not on record: %w", err))
		}
		r.recorded <- remove
	}()
}

// observe begins to count events, and to show them where there is a listener.
func (r *running) observe() {
	registry := prometheus.NewRegistry()
	version, revision := build()
	r.metrics = metrics.New(registry, r.app, logCounts{r.output, r.queue}, metrics.Build{Version: version, Revision: revision})
	for _, e := range r.early {
		r.metrics.Observe(e)
	}
	if r.listener == nil {
		return
	}
	r.server = metrics.NewServer(r.app, registry, metrics.ServerOptions{
		LiveTimeout: r.settings.app.LiveTimeout,
		Log:         func(line string) { r.warn(errors.New("http: " + line)) },
	})
	r.server.Serve(r.listener)
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
	output *logs.Output
	queue  *logs.Queue
}

func (c logCounts) Bytes(stream string) uint64 { return c.output.Bytes(stream) }
func (c logCounts) Errors() uint64             { return c.output.Errors() }
func (c logCounts) Lost() uint64               { return c.queue.Lost() }
