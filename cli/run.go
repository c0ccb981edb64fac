package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"evermore/control"
	"evermore/early"
	pid1 "evermore/init"
	"evermore/logs"
	"evermore/memory"
	"evermore/metrics"
	"evermore/node"
	"evermore/reaper"
	"evermore/signals"
	"evermore/watch"
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
	r := &running{settings: s, trimmer: memory.NewTrimmer()}
	code := 1
	defer func() { r.close(code) }()
	if err := r.start(first); err != nil {
		code = s.fail(err)
		return code
	}
	r.serve()
	code = r.app.Run()
	return code
}

// start starts the app.
func (r *running) start(first *early.Start) error {
	r.name()
	r.made = r.recipe()
	o, err := r.options()
	if err != nil {
		return err
	}
	r.ledger = control.NewLedger(r.ledgerKey(), r.uid, o.Policy.MaxRestarts.N)
	if r.nodeReport {
		r.openReports(&o)
	}
	r.manager = managerOf(os.Getenv)
	o.Adopt, o.MustStart = r.adopted, r.starter != nil
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
	r.mark = kernel.Mark()
	warnings := slices.Concat(r.lateStop(), r.noHeap(), r.unwatched(), misspelt(os.Environ()))
	if r.starter == nil {
		warnings = append(r.warnings(), warnings...) // a daemon's starter says them
	}
	for _, w := range warnings {
		r.say(levelWarn, w)
	}
	if r.links() {
		if err := r.openLink(&o); err != nil {
			return err
		}
		pool := r.pool(o, &kernel)
		r.holding.pool.Store(pool)
		r.app = pool
	} else {
		r.app = pid1.New(o, &kernel, r.catcher, r, r.lines)
	}
	if r.starter != nil {
		// Who has seen a start must find it in list.
		if r.entry, err = r.enroll(); err != nil {
			return err
		}
	}
	if code, err := r.app.Start(); err != nil {
		hint := ""
		if r.form == container && len(r.argv) > 0 && strings.HasPrefix(r.argv[0], "-") {
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
	app      supervised
	holding  *holding // nil: there is no line to node
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
	modes    *terminalModes
	words    lastWords
	ledger   *control.Ledger
	reports  *node.Reports // nil: node leaves none
	manager  *serviceManager
	made     control.Recipe // how this supervisor is started again
	uidLock  *control.Lock
	watcher  *watch.Watcher
	storm    storm
	mark     string         // of what the app's process carries in its environment
	enrolled chan *register // gives the entry in the register, once
	entry    *register      // a daemon's, which is there from the start
	events   atomic.Pointer[control.Server]
	trimmed  sync.Once
	trimmer  *memory.Trimmer
}

// open opens what was asked for, so that what can't be had is an error before
// anything runs.
func (r *running) open(o *pid1.Options) error {
	ready := make(chan struct{}) // the copying of output has begun before there are lines to tell of it
	output, err := logs.Open(logs.Options{
		LogFile: r.logFile, OutFile: r.outFile, ErrFile: r.errFile, Append: r.appendLogs, Silent: r.silent,
		Timestamps: r.timestamps, MaxSize: r.logMaxSize, MaxFiles: r.logMaxFiles, Compress: r.logCompress,
		NotRotated: func(name string, err error) {
			<-ready
			r.warn(fmt.Errorf("cannot rotate the log %s: %w", name, err))
		},
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
	// Where the app writes to files by itself it can go on without evermore.
	o.Command.DieWithParent = r.starter == nil || output.Piped()
	if r.logFile+r.outFile+r.errFile != "" {
		// A log that was moved away meanwhile, by logrotate(8), is begun anew.
		refresh := o.Refresh
		o.Refresh = func(c *reaper.Command) error {
			err := output.Reopen()
			if refresh != nil {
				err = errors.Join(err, refresh(c))
			}
			return err
		}
	}
	if r.isGiven("uid") || r.starter != nil {
		root, err := control.Root()
		if err == nil {
			r.uidLock, err = control.LockUID(root, r.uid)
		}
		if errors.Is(err, control.ErrTaken) {
			return r.cannotStart(r.program+" list shows it", "uid %s is taken: it runs already.", r.uid)
		}
	}
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
		if err != nil && r.isGiven("http") && o.Adopt == nil { // an app that serves already is to be supervised all the same
			return &failure{code: 1, err: fmt.Errorf("%s: cannot listen on %s: %w", r.given["http"], r.http, cause(err)), hint: "--http off serves nothing, another ADDRESS serves there"}
		}
		r.refused = err
	}
	r.queue = logs.NewQueue(2, output.Log())
	r.lines = logs.NewLines(r.queue, logs.LinesOptions{
		Forever: r.program == "forever", JSON: r.logFormat == "json", Timestamps: r.timestamps, Color: r.coloured(2), Verbose: r.verbose, Debug: r.debug,
		Workers: r.isGiven("instances"),
	})
	close(ready)
	return nil
}

// Observe is told of every event by the loop of the app.
func (r *running) Observe(e pid1.Event) {
	r.words.observe(e)
	r.observeDeaths(e)
	switch {
	case r.metrics != nil:
		r.metrics.Observe(e)
	case !r.serving:
		r.early = append(r.early, e)
	}
	switch e.Kind {
	case pid1.Started:
		r.holding.began(e.PID)
		if e.Worker == 0 {
			r.began(e.PID, e.Time)
		}
	case pid1.Reloaded:
		for _, s := range r.app.Snapshots() {
			if s.Worker == 0 && s.PID != 0 {
				r.began(s.PID, s.StartedAt) // on record may be the other one
			}
		}
	case pid1.Exited:
		r.modes.restore(0)
		r.holding.exited(e.PID)
	case pid1.Ready:
		r.holding.ready()
		r.manager.tell("READY=1")
		r.trimmed.Do(func() { go memory.DropPages() })
	case pid1.GaveUp:
		// Of --before, or of the start that followed it: after that the starter has
		// heard of a start.
		r.starter.tell(outcome{Error: e.Text, Code: max(e.Code, 1)})
	case pid1.Stopped:
		r.manager.tell("STOPPING=1")
		r.starter.tell(outcome{Error: "the app ended before it was started", Code: max(e.Code, 1)})
		r.entry.ended(r, e)
	}
	r.publish(e)
}

// began puts the pid of the app, of the first of its processes, where it is looked
// for.
func (r *running) began(pid int, at time.Time) {
	if r.pidOf != "" {
		if err := r.pidOf.write(pid); err != nil {
			r.warn(err)
		}
	}
	if r.serving {
		r.entry.began(r, pid, at)
	}
}

// serve does what could wait until the app was started.
func (r *running) serve() {
	r.serving = true
	if r.http != "" {
		r.observe()
	}
	r.early = nil
	if r.refused != nil {
		r.metrics.NotBound()
		r.warn(fmt.Errorf("no metrics and no probes: cannot listen on %s: %w", r.http, cause(r.refused)))
	}
	if r.starter != nil {
		if snap := r.app.Snapshot(); snap.PID != 0 {
			r.entry.began(r, snap.PID, snap.StartedAt)
		}
	} else {
		// A state folder may be on a disk that hangs.
		r.enrolled = make(chan *register, 1)
		go func() {
			e, err := r.enroll()
			if err != nil && r.form == script {
				r.warn(err)
			}
			r.enrolled <- e
		}()
	}
	r.keepDeaths()
	if r.watch {
		r.startWatch()
	}
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
	r.holding.show(registry, r.metrics)
	r.server = metrics.NewServer(r.app, registry, metrics.ServerOptions{
		LiveTimeout: r.settings.app.LiveTimeout,
		Answered:    r.trimmer.Later,
		Log:         func(line string) { r.warn(errors.New("http: " + line)) },
	})
	r.server.Serve(r.listener)
}

// close ends everything but the process, whose exit code is given.
func (r *running) close(code int) {
	r.holding.close()
	if r.watcher != nil {
		r.watcher.Close()
	}
	if r.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), flushTime)
		defer cancel()
		_ = r.server.Stop(ctx) // what is cut was to be cut
	} else if r.listener != nil {
		r.listener.Close()
	}
	entry := r.entry
	if r.enrolled != nil {
		select {
		case entry = <-r.enrolled:
		case <-time.After(flushTime):
		}
	}
	if r.pidOf != "" {
		r.pidOf.remove()
	}
	if r.terminationLog != "" {
		restarts := 0
		if r.app != nil {
			restarts = r.app.Snapshot().Restarts
		}
		if err := leaveLastWords(r.terminationLog, r.words.line(code, restarts)); err != nil {
			r.say(levelWarn, err.Error())
		}
	}
	if r.ledger != nil {
		r.ledger.Close(flushTime)
	}
	if r.reports != nil {
		r.reports.Close()
	}
	entry.leave()
	r.uidLock.Release() // last: the next one of this uid writes the same files
	if r.queue != nil {
		r.queue.Close(flushTime)
	}
	if r.output != nil {
		r.output.Close(drainTime)
	}
	entry.answer(code)
}

// warn tells of a failure that does not end supervision.
func (r *running) warn(err error) {
	r.lines.Observe(pid1.Event{Kind: pid1.Warned, Time: time.Now(), Err: err})
}

// note tells what is worth knowing and no failure.
func (r *running) note(text string) {
	r.lines.Observe(pid1.Event{Kind: pid1.Noted, Time: time.Now(), Text: text})
}

// logCounts are the counters of what is written to logs.
type logCounts struct {
	output *logs.Output
	queue  *logs.Queue
}

func (c logCounts) Bytes(stream string) uint64 { return c.output.Bytes(stream) }
func (c logCounts) Errors() uint64             { return c.output.Errors() }
func (c logCounts) Lost() uint64               { return c.queue.Lost() }
