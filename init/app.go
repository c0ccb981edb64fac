// Package pid1 lives in the folder init, a name that Go keeps for itself; it is
// imported as
//
//	import pid1 "evermore/init"
//
// It is one app's life: the loop that owns all state, and the pure restart
// policy. It knows nothing of metrics, logs or the command line: they observe it.
package pid1

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"evermore/reaper"
	"evermore/signals"
)

const (
	// leftoverGrace is how long leftovers of a dead run may take to end after
	// SIGTERM, leftoverLimit how long they may hold up what comes next.
	leftoverGrace = 800 * time.Millisecond
	leftoverLimit = time.Second
	// killGrace is how long SIGKILL may take. A process in an uninterruptible
	// sleep may outlast it: then nothing more can be done.
	killGrace = 5 * time.Second
	// firstWake is when it is first looked whether an app that was told to end has
	// been stopped since, as one in the background is that reads its terminal;
	// each further look takes twice as long, up to lastWake.
	firstWake, lastWake = 50 * time.Millisecond, time.Second
	// sameInterrupt is within what a second SIGINT is the same ^C.
	sameInterrupt = 50 * time.Millisecond
	// settleTime is how much later than the child evermore may learn of a ^C
	// that the terminal sent to both.
	settleTime = 20 * time.Millisecond
	// forwardedFor is how long after a signal was forwarded a death by it is
	// put down to it.
	forwardedFor = 5 * time.Second
	// startPause is the least pause after a start that failed, forkPause that
	// after one for which there was no process, where a spinning script is given up.
	startPause = 10 * time.Millisecond
	forkPause  = time.Second
	// readyUptime is how long an app is up before it is ready, unless another
	// way to know was chosen.
	readyUptime = time.Second
)

// Processes starts and reaps processes. *reaper.Reaper is one, by Kernel.
type Processes interface {
	Start(reaper.Command) (Process, error)
	Reap() reaper.Reaped
	// Leftovers gives what is left of the run of a process that was reaped.
	Leftovers(Process) []Leftover
	Zombies() []reaper.Zombie
	// Adopt watches over a running process that somebody else has started.
	Adopt(reaper.Adoption) (Process, error)
	// Gone tells that an adopted process has ended: Reap gives its exit.
	Gone() <-chan struct{}
	// Memory is the resident memory of a process, in bytes.
	Memory(Process) (bytes int64, ok bool)
	// OOMKills is how many processes of the control group the out-of-memory killer
	// has killed.
	OOMKills() (n uint64, ok bool)
	// Usage is what the control group uses now; before, when not nil, is what it was
	// earlier, and its limits then.
	Usage(before *Usage) Usage
	// Headroom is how much memory the control group has left, in bytes, the page
	// cache taken for free, and its limit; ok is false where there is no limit.
	Headroom() (left, limit int64, ok bool)
	// Sacrifice has the out-of-memory killer take the process rather than evermore.
	Sacrifice(Process)
}

// Process is a started process; see reaper.Process.
type Process interface {
	PID() int
	PIDFD() int
	Signal(syscall.Signal) error
	SignalGroup(syscall.Signal) error
	Halted() bool
}

// Leftover is a process that outlived its run; see reaper.Leftover.
type Leftover interface {
	Alive() bool
	Signal(syscall.Signal) error
	String() string
}

// Catcher gives the signals that arrive; see signals.Catcher.
type Catcher interface {
	Signals() <-chan signals.Received
	Children() <-chan struct{}
	SetTarget(pidfd int) error
	JustForwarded(syscall.Signal) bool
}

// App is one supervised app. Run owns its state; the other methods may be called
// from any goroutine.
type App struct {
	opts      Options
	procs     Processes
	catcher   Catcher
	observers []Observer
	notify    *notifySocket // nil unless the app speaks sd_notify
	prober    prober

	snapshot atomic.Pointer[view]
	pings    chan chan struct{}
	notices  chan notice
	probes   chan probed
	restarts chan restartRequest
	stops    chan stopRequest
	signals  chan signalRequest
	recalls  chan []time.Duration
	answers  chan explained
	tellings chan Told
	stacks   chan stack
	promoted chan promotion
	retires  chan Reason
	over     chan struct{} // closed when Run returns
	trial    atomic.Bool   // an exit is the end: the process is to prove itself first

	// What follows belongs to Run.
	epoch       time.Time // the clock of the policy starts here
	state       State
	snap        Snapshot
	history     History
	run         run
	interrupted time.Time      // when a SIGINT began the stop
	stopAsked   bool           // by somebody, not for a process that takes the place
	draining    syscall.Signal // what the app is to be sent when the drain is over
	finishing   syscall.Signal // what it is to be sent when it has finished
	retired     Reason         // why it ends without being the last; empty: it does not
	counted     bool           // the policy counts the next start
	final       bool           // nothing is started any more
	because     Reason         // why evermore is ending the run; empty: it is not
	cause       string         // what a person should know of that
	forced      bool           // the next run follows at once
	fault       bool           // evermore ends the run for a fault of it
	waiting     []chan error   // who waits for the next start
	hooks       []hook
	nextTime    time.Time // the next of Options.Schedule; zero: not looked up
	exitCode    int
	left        []Leftover     // of the run that is over
	clearBy     syscall.Signal // what they were last sent
	settling    bool           // they are gone, settle is set
	again       chan struct{}  // there is more to reap
	zombies     zombieWatch
	oom         *oomWatch
	throttling  Usage                        // when the app was last asked whether it hangs
	sentAt      map[syscall.Signal]time.Time // when a signal was last forwarded

	backoff, drain, kill, wake, clear, settle, ready, watchdog, lookout timer
	memory, runTime, scheduled, hookTimer, explain, hang                timer
}

// run is one run of the app, or of the command of --before.
type run struct {
	n        int     // counts the runs, so that late news of an earlier one are known
	process  Process // nil once it is reaped
	ended    Process // the process, once it is reaped
	started  time.Time
	exit     reaper.Exit
	uptime   time.Duration
	before   bool
	watchdog time.Duration
	hungAt   time.Time // when the watchdog elapses
	usage    Usage     // of the control group when it began
	told     syscall.Signal
	senders  map[syscall.Signal]Sender
	asked    bool // what the app has left behind about its end was looked for
	report   *Report
	killBy   time.Time // when it is killed, once it was told to finish

	listens    bool      // where it is to
	pingBy     time.Time // when it is to be asked whether it hangs
	stackAsked bool      // where it hangs is being found out
}

// view is what Snapshot reads: a snapshot and what the passing of time changes.
type view struct {
	snap    Snapshot
	policy  Policy
	history History
	epoch   time.Time
	run     int
}

// New makes an app of valid options. The observers are told of every event, by
// the goroutine of Run.
func New(o Options, p Processes, c Catcher, observers ...Observer) *App {
	a := &App{
		opts: o, procs: p, catcher: c, observers: observers,
		pings:    make(chan chan struct{}),
		notices:  make(chan notice),
		probes:   make(chan probed),
		restarts: make(chan restartRequest),
		stops:    make(chan stopRequest),
		signals:  make(chan signalRequest),
		recalls:  make(chan []time.Duration),
		answers:  make(chan explained),
		tellings: make(chan Told),
		stacks:   make(chan stack),
		promoted: make(chan promotion),
		retires:  make(chan Reason),
		oom:      &oomWatch{},
		over:     make(chan struct{}),
		again:    make(chan struct{}, 1),
		sentAt:   make(map[syscall.Signal]time.Time),
		epoch:    time.Now(),
		state:    StatePreparing,
	}
	a.prober.url = o.Ready.URL
	a.snap.NotReady = "it has not been started yet"
	a.publish()
	return a
}

// Start starts the app, or the command of --before, for the first time. Run
// comes next, unless there is an error: then nothing was started, and code is
// evermore's exit code.
func (a *App) Start() (code int, err error) {
	if a.opts.Ready.By == ReadyNotify {
		if a.notify, err = listenNotify(a.notices, a.over, a.opts.Adopt); err != nil {
			return 1, err
		}
	}
	if a.opts.Adopt != nil {
		err = a.adopt()
	} else if len(a.opts.Before) > 0 {
		err = a.prepare()
	} else if err = a.start(); err != nil {
		if e := new(reaper.StartError); errors.As(err, &e) && !e.Exec && !a.opts.MustStart {
			a.startFailed(err)
			err = nil
		}
	}
	if err != nil {
		a.end()
		return startCode(err), err
	}
	a.publish()
	return 0, nil
}

// end closes what Start opened.
func (a *App) end() {
	close(a.over)
	if a.notify != nil {
		a.notify.close()
	}
}

// Run keeps the started app alive until its end, and returns evermore's exit
// code: the app's own, or 128+n when signal n ended it.
func (a *App) Run() int {
	defer a.end()
	a.reap() // of what was inherited, or died before SIGCHLD was caught
	for a.state != StateStopped || a.hooksRun() {
		a.publish()
		select {
		case s := <-a.catcher.Signals():
			a.signalled(s)
		case <-a.catcher.Children():
			a.reap()
		case <-a.procs.Gone():
			a.reap()
		case r := <-a.restarts:
			a.restartRequested(r)
		case r := <-a.stops:
			a.endRequested(r)
		case r := <-a.signals:
			a.signalAsked(r)
		case ago := <-a.recalls:
			a.history = a.history.with(ago, time.Since(a.epoch))
		case r := <-a.answers:
			a.explained(r)
		case <-a.explain.c:
			a.explainTimeElapsed()
		case t := <-a.tellings:
			a.told(t)
		case st := <-a.stacks:
			a.stackTaken(st)
		case p := <-a.promoted:
			a.promote(p)
		case why := <-a.retires:
			a.retire(why)
		case <-a.hang.c:
			a.hangTimeElapsed()
		case <-a.again:
			a.reap()
		case <-a.backoff.c:
			a.backoffElapsed()
		case <-a.drain.c:
			a.drainElapsed()
		case <-a.kill.c:
			a.killTimeElapsed()
		case <-a.wake.c:
			a.wakeTimeElapsed()
		case <-a.clear.c:
			a.clearTimeElapsed()
		case <-a.settle.c:
			a.settled()
		case <-a.ready.c:
			a.readyTimeElapsed()
		case <-a.watchdog.c:
			a.watchdogElapsed()
		case <-a.lookout.c:
			a.lookForZombies()
		case <-a.memory.c:
			a.memoryTimeElapsed()
		case <-a.runTime.c:
			a.runTimeElapsed()
		case <-a.scheduled.c:
			a.scheduleElapsed()
		case <-a.hookTimer.c:
			a.hookTimeElapsed()
		case n := <-a.notices:
			a.notified(n)
		case p := <-a.probes:
			a.probed(p)
		case reply := <-a.pings:
			a.pinged()
			close(reply)
		}
	}
	a.publish()
	return a.exitCode
}

// Snapshot gives what is true of the app now. It never waits for the loop.
func (a *App) Snapshot() *Snapshot {
	v := a.snapshot.Load()
	s := v.snap
	s.RestartsRemaining = v.policy.Remaining(v.history, time.Since(v.epoch))
	// A run need not end to have lasted.
	if !s.StartedAt.IsZero() && time.Since(s.StartedAt) >= v.policy.MinUptime {
		s.Spinning = false
	}
	return &s
}

// Snapshots gives what Snapshot does, of each process that does the same work: of
// one.
func (a *App) Snapshots() []*Snapshot { return []*Snapshot{a.Snapshot()} }

// Recall tells of restarts that earlier supervisors of the app have made: how long
// ago each was, oldest first. Policy.MaxRestarts counts them, too.
func (a *App) Recall(ago []time.Duration) {
	select {
	case a.recalls <- ago:
	case <-a.over:
	}
}

// Ping comes back when the loop has answered, or with the context's error.
func (a *App) Ping(ctx context.Context) error {
	reply := make(chan struct{})
	select {
	case a.pings <- reply:
	case <-a.over:
		return errors.New("the app has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-reply:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// emit tells the observers what happened.
func (a *App) emit(e Event) {
	e.Time = time.Now()
	for _, o := range a.observers {
		o.Observe(e)
	}
}

// publish makes the state known to other goroutines.
func (a *App) publish() {
	a.snap.State = a.state
	switch unready := !a.snap.Ready && a.state != StateBackoff; {
	case !unready:
		a.snap.UnreadySince = time.Time{}
	case a.snap.UnreadySince.IsZero():
		a.snap.UnreadySince = time.Now()
	}
	v := &view{snap: a.snap, policy: a.opts.Policy, history: a.history, epoch: a.epoch, run: a.run.n}
	if old := a.snapshot.Load(); old != nil && old.same(v) {
		return
	}
	a.snapshot.Store(v)
}

func (v *view) same(w *view) bool {
	return v.snap == w.snap && v.history.Runs == w.history.Runs && slices.Equal(v.history.restarts, w.history.restarts)
}

// prepare starts the command of --before.
func (a *App) prepare() error {
	c := a.opts.Command
	c.Argv, c.DieWithParent = a.opts.Before, true // nobody would know what it was for
	p, err := a.spawn(c)
	if err != nil {
		return err
	}
	a.state = StatePreparing
	a.run.before = true
	a.snap.NotReady = "the command of --before runs"
	a.emit(Event{Kind: Preparing, PID: p.PID()})
	return nil
}

// start starts the app's next run.
func (a *App) start() error {
	c, err := a.command()
	if err != nil {
		return err
	}
	var p Process
	spawn := func() (err error) {
		p, err = a.spawn(c)
		return err
	}
	if a.opts.Link != nil {
		err = a.opts.Link.Hand(&c, spawn)
	} else {
		err = spawn()
	}
	if err != nil {
		a.answer(err)
		return err
	}
	a.began(p)
	return nil
}

// command is what the next run executes. What can't be brought up to date stays as it
// was; where another process serves meanwhile, it is an error.
func (a *App) command() (reaper.Command, error) {
	if a.opts.Refresh != nil {
		if err := a.opts.Refresh(&a.opts.Command); err != nil {
			if a.trial.Load() {
				return a.opts.Command, err
			}
			a.emit(Event{Kind: Warned, Err: err})
		}
	}
	return a.opts.Command, nil
}

// adopt takes over the run of an app that lost its supervisor.
func (a *App) adopt() error {
	p, err := a.procs.Adopt(*a.opts.Adopt)
	if err != nil {
		return err
	}
	a.run = run{n: a.run.n + 1, process: p, started: a.opts.Adopt.StartedAt}
	_ = a.catcher.SetTarget(p.PIDFD())
	a.began(p)
	switch a.opts.Ready.By {
	case ReadyNotify, ReadyListening, ReadyMessage:
		a.becameReady() // it said so to the supervisor that it had, and will not say it again
	case ReadyURL:
		a.ready.set(probeFirst) // neither that it listens
	}
	return nil
}

// began: a run of the app has begun.
func (a *App) began(p Process) {
	a.state = StateRunning
	a.snap.PID, a.snap.StartedAt = p.PID(), a.run.started
	a.snap.LastPID, a.snap.LastStartedAt = p.PID(), a.run.started
	a.snap.Starts++
	a.snap.Backoff, a.snap.BackoffUntil = 0, time.Time{}
	a.snap.Status = ""
	a.publish() // who hears of the start finds it in the snapshot
	a.emit(Event{Kind: Started, PID: p.PID()})
	a.awaitReady()
	a.run.watchdog = a.opts.Watchdog
	a.lookout.set(a.zombies.restart())
	a.limit()
	a.answer(nil)
	a.account()
	a.awaitHang()
}

// spawn starts a command as the next run.
func (a *App) spawn(c reaper.Command) (Process, error) {
	n := a.run.n + 1
	if a.notify != nil {
		c.Env = append(slices.Clip(c.Env), "NOTIFY_SOCKET="+a.notify.name)
		if a.opts.Watchdog > 0 {
			c.Env = append(c.Env, "WATCHDOG_USEC="+strconv.FormatInt(a.opts.Watchdog.Microseconds(), 10))
		}
	}
	p, err := a.procs.Start(c)
	if err != nil {
		a.run = run{n: n}
		return nil, err
	}
	a.run = run{n: n, process: p, started: time.Now()}
	// A failure leaves the slot empty: the loop forwards instead.
	_ = a.catcher.SetTarget(p.PIDFD())
	return p, nil
}

// startCode is the exit code when the first start fails.
func startCode(err error) int {
	if e := new(reaper.StartError); errors.As(err, &e) {
		return e.Code()
	}
	return 1
}

// startFailed takes a start that failed for a run that was over at once.
func (a *App) startFailed(err error) {
	exit := reaper.Exit{Code: startCode(err), At: time.Now()}
	a.run.exit = exit
	a.snap.LastExit, a.snap.LastExitAt, a.snap.LastReason = exit, exit.At, ReasonSpawn
	a.emit(Event{Kind: SpawnFailed, Exit: exit, Reason: ReasonSpawn, Err: err})
	p := a.opts.Policy
	if e := new(reaper.StartError); errors.As(err, &e) && !e.Exec && p.SpinSleepTime == 0 {
		// There was no room for a process: that is not the app's fault, and never
		// the end.
		p.SpinSleepTime, p.MinUptime = forkPause, max(p.MinUptime, 1)
	}
	a.next(p, Ended{Exit: exit, Now: time.Since(a.epoch)}, ReasonSpawn)
}

// reap takes the exits of all dead children.
func (a *App) reap() {
	r := a.procs.Reap()
	killed := false
	for _, e := range r.Orphans {
		a.emit(Event{Kind: OrphanReaped, PID: e.PID, Exit: e})
		killed = killed || e.Signal == syscall.SIGKILL
	}
	if killed {
		a.lookForOOMKills(0)
	}
	for _, e := range r.Exits {
		if !a.hookExited(e.PID, e.String(), e.Status()) {
			a.exited(e)
		}
	}
	if r.More {
		select {
		case a.again <- struct{}{}:
		default:
		}
	}
	if a.state == StateClearing {
		a.clearing()
	}
}

// exited: the run is over.
func (a *App) exited(e reaper.Exit) {
	if a.run.process == nil || a.run.process.PID() != e.PID {
		a.emit(Event{Kind: Warned, Err: fmt.Errorf("internal error: the exit of process %d, which is no run", e.PID)})
		return
	}
	a.run.ended, a.run.process = a.run.process, nil
	if a.state == StateStopped {
		return // it hung in the kernel and was given up
	}
	if a.draining != 0 {
		a.draining, a.because = 0, "" // it had not been told to end
	}
	a.run.exit = e
	a.run.uptime = e.At.Sub(a.run.started)
	a.drain.stop()
	a.kill.stop()
	a.wake.stop()
	a.ready.stop()
	a.watchdog.stop()
	a.hang.stop()
	a.finishing = 0
	a.unlimit()
	a.unready("it is down")
	a.snap.PID, a.snap.StartedAt, a.snap.UnkillableSince = 0, time.Time{}, time.Time{}
	a.state, a.settling = StateClearing, false
	if a.opts.KillTree {
		a.left = a.leftovers()
	}
	if len(a.left) == 0 {
		a.cleared()
		return
	}
	a.emit(Event{Kind: LeftoversEnding, PID: e.PID, Text: names(a.left)})
	a.clearBy = syscall.SIGTERM
	a.signalLeftovers(a.clearBy)
	a.clear.set(leftoverGrace)
}

// clearing looks whether the leftovers are gone, and whether they left something
// behind themselves.
func (a *App) clearing() {
	a.left = slices.DeleteFunc(a.left, func(l Leftover) bool { return !l.Alive() })
	if len(a.left) > 0 || a.settling {
		return
	}
	if a.left = a.leftovers(); len(a.left) > 0 {
		a.signalLeftovers(a.clearBy)
		return
	}
	a.cleared()
}

// clearTimeElapsed: SIGTERM, or after it SIGKILL, has had its time.
func (a *App) clearTimeElapsed() {
	if a.state != StateClearing {
		return
	}
	a.left = a.leftovers()
	switch {
	case len(a.left) == 0:
		a.cleared()
	case a.clearBy == syscall.SIGTERM:
		a.clearBy = syscall.SIGKILL
		a.signalLeftovers(a.clearBy)
		a.clear.set(leftoverLimit - leftoverGrace)
	default:
		a.emit(Event{Kind: LeftoversStuck, PID: a.run.exit.PID, Text: names(a.left)})
		a.cleared()
	}
}

func (a *App) leftovers() []Leftover { return a.procs.Leftovers(a.run.ended) }

func (a *App) signalLeftovers(s syscall.Signal) {
	for _, l := range a.left {
		_ = l.Signal(s) // gone is what it is to be; what can't be ended is told when the time is over
	}
}

// cleared: nothing of the run is left.
func (a *App) cleared() {
	a.left = nil
	a.clear.stop()
	if a.opts.Terminal && !a.final {
		// ^C went to the whole group; do not take the app's death for a crash
		// before evermore's own share of it has had time to arrive.
		a.settling = true
		a.settle.set(settleTime)
		return
	}
	a.settled()
}

// settled: the run is over, and why is known.
func (a *App) settled() {
	if a.state != StateClearing {
		return
	}
	if a.run.before {
		a.beforeExited(a.run.exit)
		return
	}
	if !a.askWhy() {
		a.concluded()
	}
}

// concluded: what there is to know of the run is known.
func (a *App) concluded() {
	exit, uptime := a.run.exit, a.run.uptime
	if a.trial.CompareAndSwap(true, false) {
		a.final = true
	}
	reason := a.reason(exit)
	requested := reason == ReasonRequest
	spinning := !requested && !a.forced && a.because != ReasonReload && uptime < a.opts.Policy.MinUptime
	a.snap.LastExit, a.snap.LastExitAt, a.snap.LastReason = exit, exit.At, reason
	e := Event{Kind: Exited, PID: exit.PID, Exit: exit, Reason: reason, Uptime: uptime, Spinning: spinning && !a.final, Death: a.death(exit, reason)}
	a.emit(e)
	a.hook(e)
	if a.final {
		a.stop(exit.Status())
		return
	}
	a.next(a.opts.Policy, Ended{Exit: exit, Uptime: uptime, Requested: requested, Forced: a.forced, Fault: a.fault, Now: time.Since(a.epoch)}, reason)
}

// beforeExited: the command of --before is over.
func (a *App) beforeExited(e reaper.Exit) {
	switch {
	case a.final:
		a.stop(e.Status())
	case e.Status() != 0:
		a.emit(Event{Kind: GaveUp, Code: a.remap(e.Status()), Text: "the command of --before failed: " + e.String()})
		a.stop(e.Status())
	default:
		a.restart()
	}
}

// reason tells why a run ended.
func (a *App) reason(e reaper.Exit) Reason {
	oom := a.oomKilled(e)
	switch {
	case a.because != "":
		return a.because
	case oom:
		return ReasonOOM
	case a.run.report != nil && a.run.report.Reason != "":
		return a.run.report.Reason
	case e.Signal == 0:
		return ReasonExit
	case a.catcher.JustForwarded(e.Signal), e.At.Sub(a.sentAt[e.Signal]) < forwardedFor:
		return ReasonRequest
	}
	return ReasonSignal
}

// next does what the policy says about an end.
func (a *App) next(p Policy, e Ended, reason Reason) {
	if e.Exit.Unknown {
		p.StopCodes = nil // its Code tells nothing
	}
	var d Decision
	d, a.history = p.Next(e, a.history, jitter())
	a.snap.Spinning = a.history.Spins > 0
	a.because, a.cause, a.forced, a.fault = "", "", false, false
	switch d := d.(type) {
	case Restart:
		a.counted = p.counts(e)
		a.snap.LastReason = reason
		a.state = StateBackoff
		if reason == ReasonSpawn {
			d.After = max(d.After, startPause) // what fails at once must not fail all the time
		}
		if d.After > 0 {
			a.snap.Backoff, a.snap.BackoffUntil = d.After, time.Now().Add(d.After)
			a.snap.NotReady = "it is down, waiting to be started again"
			a.emit(Event{Kind: BackingOff, Backoff: d.After})
			a.backoff.set(d.After)
			return
		}
		a.restart()
	case GiveUp:
		a.emit(Event{Kind: GaveUp, Code: a.remap(e.Exit.Status()), Text: d.Why})
		a.stop(e.Exit.Status())
	case Done:
		a.stop(e.Exit.Status())
	}
}

// backoffElapsed: the pause before a start is over.
func (a *App) backoffElapsed() {
	if a.state == StateBackoff {
		a.restart()
	}
}

// restart starts the next run, which is the first one after --before.
func (a *App) restart() {
	first := a.run.before
	if !first {
		a.snap.Restarts++
		a.emit(Event{Kind: Restarting, Exit: a.run.exit, Reason: a.snap.LastReason, Restarts: a.snap.Restarts, Counted: a.counted, Backoff: a.snap.Backoff})
	}
	if err := a.start(); err != nil {
		if e := new(reaper.StartError); first && errors.As(err, &e) && (e.Exec || a.opts.MustStart) {
			a.emit(Event{Kind: GaveUp, Code: a.remap(startCode(err)), Text: err.Error()})
			a.stop(startCode(err))
			return
		}
		a.startFailed(err)
	}
}

// stop is the end: nothing runs any more.
func (a *App) stop(code int) {
	a.backoff.stop()
	a.lookout.stop()
	a.exitCode = a.remap(code)
	a.state = StateStopped
	a.snap.NotReady = "it has ended"
	a.snap.Backoff, a.snap.BackoffUntil = 0, time.Time{}
	r := a.procs.Reap()
	for _, e := range r.Orphans {
		a.emit(Event{Kind: OrphanReaped, PID: e.PID, Exit: e})
	}
	for _, e := range r.Exits {
		a.hookExited(e.PID, e.String(), e.Status()) // nothing else that was started is left
	}
	a.answer(a.ending())
	e := Event{Kind: Stopped, Code: a.exitCode, Reason: a.snap.LastReason}
	if a.final {
		e.Reason = ReasonRequest
	}
	a.emit(e)
}

func (a *App) remap(code int) int {
	if to, ok := a.opts.RemapExit[code]; ok {
		return to
	}
	return code
}

func names(left []Leftover) string {
	s := ""
	for i, l := range left {
		if i == 8 {
			return s + fmt.Sprintf(" and %d more", len(left)-i)
		}
		if i > 0 {
			s += ", "
		}
		s += l.String()
	}
	return s
}

// timer is one that the loop selects on. Set again or stopped, it gives nothing
// of an earlier setting (package time, since Go 1.23).
type timer struct {
	t    *time.Timer
	c    <-chan time.Time
	last time.Duration // what it was last set to
}

func (t *timer) set(d time.Duration) {
	t.last = d
	if t.t == nil {
		t.t = time.NewTimer(d)
		t.c = t.t.C
		return
	}
	t.t.Reset(d)
}

func (t *timer) stop() {
	if t.t != nil {
		t.t.Stop()
	}
}
