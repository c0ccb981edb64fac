package pid1

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"evermore/reaper"
	"evermore/signals"
)

// PoolOptions is what a pool of processes depends on.
type PoolOptions struct {
	Options
	// Instances is how many processes there are; at least 1.
	Instances int
	// Instance, when not nil, makes the options of one of them out of those of all.
	Instance func(worker int, o Options) Options
	// Overlap, when not nil, tells why no new process can be started beside the one
	// that it is to replace; nil: it can. Else a reload ends the old one first.
	Overlap func() error
	// ReloadSignal, when not 0, means a reload, unless it means to stop or is
	// rewritten: ReloadAsked is called, with what the log is to say of the cause.
	ReloadSignal syscall.Signal
	ReloadAsked  func(text string)
	// ReadyTimeout is how long a new process may take to be ready before a reload
	// is rolled back.
	ReadyTimeout time.Duration
}

// Pool runs an app as one or more processes that do the same work, each with an
// App that keeps it alive, and replaces them without a gap. One goroutine, that of
// Run, owns its state. A worker that gives up leaves the work to the others; when none
// is left, or by a stop, all is over.
type Pool struct {
	opts      PoolOptions
	kernel    Processes
	catcher   Catcher
	observers []Observer
	observing sync.Mutex // the workers observe one after the other, and
	refresh   sync.Mutex // refresh their commands
	oom       *oomWatch
	epoch     time.Time

	workers atomic.Pointer[[]*worker] // those that serve, by their numbers
	past    atomic.Pointer[Snapshot]  // what was true of one that served to its end, with the counts of all of them

	mu     sync.Mutex    // guards what follows, and each worker's reaped
	owners map[int]owned // by pid
	news   []news

	told    chan struct{} // there are news
	reloads chan *reload
	scales  chan scaleRequest
	stops   chan stopRequest
	pings   chan chan struct{}
	over    chan struct{} // closed when Run returns

	// What follows belongs to Run.
	leaving []*worker      // end, and are waited for
	later   []int          // are started when --before has succeeded
	waiting []scaleRequest // for the end of the reload
	reload  *reload        // under way
	next    *reload        // and the one that follows it
	again   chan struct{}
	ending  bool // nothing is started any more
	decided bool // by whom the exit code is
	code    int
	reason  Reason
	readyBy timer
}

// worker is one of the processes, in the course of its restarts, with its share of
// the kernel and of the signals.
type worker struct {
	pool     *Pool
	n        int
	app      *App
	signals  chan signals.Received
	children chan struct{}
	reaped   []reaper.Exit
	gaveUp   bool   // told by an event of the app
	down     bool   // it gave up, and others serve on; known to the pool alone
	reason   Reason // of its end, likewise
}

// owned is a process that a worker has started.
type owned struct {
	worker  *worker
	process Process
}

// news is what a worker tells the pool.
type news struct {
	worker *worker
	what   workerNews
	code   int
	err    error
}

type workerNews int

const (
	workerBegan workerNews = iota // a run of it
	workerReady
	workerEnded     // for good
	workerRestarted // or could not be: err
)

// NewPool makes a pool of valid options. The observers are told of every event of
// every worker, by one goroutine at a time.
func NewPool(o PoolOptions, p Processes, c Catcher, observers ...Observer) *Pool {
	l := &Pool{
		opts: o, kernel: p, catcher: c, observers: observers,
		oom: &oomWatch{}, epoch: time.Now(), owners: map[int]owned{},
		told:    make(chan struct{}, 1),
		reloads: make(chan *reload),
		scales:  make(chan scaleRequest),
		stops:   make(chan stopRequest),
		pings:   make(chan chan struct{}),
		over:    make(chan struct{}),
		again:   make(chan struct{}, 1),
	}
	first := make([]*worker, 0, o.Instances)
	for n := range o.Instances {
		first = append(first, l.worker(n, func(o *Options) {
			if n > 0 {
				o.Before, o.MustStart = nil, false
			}
		}))
	}
	l.workers.Store(&first)
	return l
}

// worker makes a worker of that number. adjust has the last word on its options.
func (l *Pool) worker(n int, adjust func(*Options)) *worker {
	w := &worker{pool: l, n: n, signals: make(chan signals.Received), children: make(chan struct{}, 1)}
	o := l.opts.Options
	if n > 0 {
		o.Adopt = nil
	}
	if l.opts.Instance != nil {
		o = l.opts.Instance(n, o)
	}
	if refresh := o.Refresh; refresh != nil {
		o.Refresh = func(c *reaper.Command) error {
			l.refresh.Lock()
			defer l.refresh.Unlock()
			return refresh(c)
		}
	}
	adjust(&o)
	w.app = New(o, w, w, w)
	w.app.epoch, w.app.oom, w.app.snap.Worker = l.epoch, l.oom, n
	w.app.snapshot.Store(nil)
	w.app.publish()
	return w
}

// Start starts the processes for the first time; with --before, its command. Run
// comes next, unless there is an error: then nothing was started, and code is
// evermore's exit code.
func (l *Pool) Start() (code int, err error) {
	workers := l.serving()
	if code, err := workers[0].app.Start(); err != nil {
		close(l.over)
		return code, err
	}
	if len(l.opts.Before) > 0 && l.opts.Adopt == nil {
		for _, w := range workers[1:] {
			l.later = append(l.later, w.n)
		}
		l.workers.Store(ptr(workers[:1]))
		return 0, nil
	}
	for _, w := range workers[1:] {
		if code, err := w.app.Start(); err != nil {
			l.neverBegan(w, code, err)
		}
	}
	return 0, nil
}

// neverBegan: a worker could not be started, and that is for good: it gives up.
func (l *Pool) neverBegan(w *worker, code int, err error) {
	w.Observe(Event{Kind: GaveUp, Code: code, Text: err.Error(), Time: time.Now()})
	w.reason = ReasonSpawn
	l.tell(news{worker: w, what: workerEnded, code: code})
}

// run runs the loop of a worker that was started.
func (l *Pool) run(w *worker) {
	select {
	case <-w.app.over: // it could not be started
	default:
		go func() {
			code := w.app.Run()
			l.tell(news{worker: w, what: workerEnded, code: code})
		}()
	}
}

// Run keeps the started processes alive until the end of them all, and returns
// evermore's exit code: that of the last worker that gave up, or else the first that
// was not 0.
func (l *Pool) Run() int {
	defer close(l.over)
	for _, w := range l.serving() {
		l.run(w)
	}
	l.reap()
	for len(l.all()) > 0 {
		select {
		case s := <-l.catcher.Signals():
			l.signalled(s)
		case <-l.catcher.Children():
			l.reap()
		case <-l.kernel.Gone():
			l.reap()
		case <-l.again:
			l.reap()
		case <-l.told:
			l.hear()
		case r := <-l.reloads:
			l.reloadRequested(r)
		case r := <-l.scales:
			l.scaleRequested(r)
		case r := <-l.stops:
			l.stopRequested(r)
		case <-l.readyBy.c:
			l.readyTimeElapsed()
		case reply := <-l.pings:
			close(reply)
		}
	}
	l.reap()
	l.failReload(ErrEnding)
	l.emit(Event{Kind: Stopped, Code: l.code, Reason: l.reason})
	return l.code
}

func ptr[T any](v T) *T { return &v }

// serving gives the workers that serve, or gave up while others do, by their numbers.
func (l *Pool) serving() []*worker { return *l.workers.Load() }

// living gives those of them that have not ended. Any goroutine may ask.
func (l *Pool) living() []*worker {
	return slices.DeleteFunc(slices.Clone(l.serving()), func(w *worker) bool {
		select {
		case <-w.app.over:
			return true
		default:
			return false
		}
	})
}

// all gives every worker whose end is still to come.
func (l *Pool) all() []*worker {
	all := slices.DeleteFunc(slices.Concat(l.serving(), l.leaving), func(w *worker) bool { return w.down })
	if l.reload != nil && l.reload.candidate != nil {
		all = append(all, l.reload.candidate)
	}
	return all
}

// tell tells the pool something. It never waits: the pool may be waiting for who
// tells.
func (l *Pool) tell(n news) {
	l.mu.Lock()
	l.news = append(l.news, n)
	l.mu.Unlock()
	select {
	case l.told <- struct{}{}:
	default:
	}
}

// hear takes what the workers have told.
func (l *Pool) hear() {
	l.mu.Lock()
	list := l.news
	l.news = nil
	l.mu.Unlock()
	for _, n := range list {
		switch n.what {
		case workerBegan:
			l.began(n.worker)
		case workerReady:
			l.ready(n.worker)
		case workerRestarted:
			l.restarted(n.worker, n.err)
		case workerEnded:
			l.ended(n)
		default:
			l.emit(Event{Kind: Warned, Err: fmt.Errorf("internal error: a worker told %d", n.what)})
		}
	}
}

// began: a run of a worker has begun.
func (l *Pool) began(*worker) {
	later := l.later
	l.later = nil
	for _, n := range later {
		if l.ending {
			return
		}
		if w, code, err := l.add(n); err != nil {
			l.neverBegan(w, code, err)
		}
	}
}

// add starts one more worker. With an error, which is for good, it serves all the same.
func (l *Pool) add(n int) (w *worker, code int, err error) {
	w = l.worker(n, func(o *Options) { o.Before, o.Adopt, o.MustStart = nil, nil, false })
	l.serve(append(slices.Clone(l.serving()), w))
	if code, err = w.app.Start(); err == nil {
		l.run(w)
	}
	return w, code, err
}

// without gives the workers that serve but for one.
func (l *Pool) without(w *worker) []*worker {
	return slices.DeleteFunc(slices.Clone(l.serving()), func(o *worker) bool { return o == w })
}

func (l *Pool) serve(workers []*worker) {
	slices.SortFunc(workers, func(a, b *worker) int { return cmp.Compare(a.n, b.n) })
	l.workers.Store(&workers)
}

// ended: a worker is over.
func (l *Pool) ended(n news) {
	w := n.worker
	if i := slices.Index(l.leaving, w); i >= 0 {
		l.leaving = slices.Delete(l.leaving, i, i+1)
		l.left(w)
		return
	}
	if l.reload != nil && l.reload.candidate == w {
		l.candidateEnded(n)
		return
	}
	if r := l.reload; r != nil && r.old == w && r.restarted {
		r.result, r.err = ReloadFailed, fmt.Errorf("the new process ended before it was ready: %s", w.app.Snapshot().LastExit)
		defer l.endReload()
	}
	others := l.up(w)
	if w.gaveUp && !l.ending && others > 0 {
		w.down = true
		l.emit(Event{Kind: Noted, Text: fmt.Sprintf("worker %d is given up, and %d serve on: restart, reload and scale start it again", w.n, others)})
		return
	}
	if others == 0 {
		l.clear()
	}
	l.remember(w)
	l.serve(l.without(w))
	if !l.decided && (l.code == 0 || w.gaveUp) {
		l.code, l.reason = n.code, w.reason
	}
	if w.gaveUp && !l.ending {
		l.decided = true
		l.stopRequested(stopRequest{})
	}
}

// up is how many workers beside one have not given up.
func (l *Pool) up(but *worker) (n int) {
	for _, w := range l.serving() {
		if w != but && !w.down {
			n++
		}
	}
	return n
}

// clear takes away the workers that gave up.
func (l *Pool) clear() {
	for _, w := range l.serving() {
		if w.down {
			l.remember(w)
			l.serve(l.without(w))
		}
	}
}

// remember keeps what Snapshot tells when no worker serves any more: of the one that
// decided the end, or the last.
func (l *Pool) remember(w *worker) {
	last := w.app.Snapshot()
	if before := l.past.Load(); before != nil {
		starts, restarts := last.Starts+before.Starts, last.Restarts+before.Restarts
		if l.decided {
			last = ptr(*before)
		}
		last.Starts, last.Restarts = starts, restarts
	}
	last.Worker, last.State, last.NotReady = 0, StateStopped, "it has ended"
	l.past.Store(last)
}

// retire ends a worker in order. It is not waited for.
func (l *Pool) retire(w *worker, why Reason) {
	select {
	case w.app.retires <- why:
	case <-w.app.over:
	}
}

// stopRequested: somebody wants the end, by the API.
func (l *Pool) stopRequested(r stopRequest) {
	l.ending = true
	for _, w := range l.all() {
		select {
		case w.app.stops <- r:
		case <-w.app.over:
		}
	}
}

// signalled: a signal arrived. Each worker does with it what it means.
func (l *Pool) signalled(r signals.Received) {
	to, rewritten := l.opts.Rewrite[r.Signal]
	switch stop := l.opts.StopSignals.Has(r.Signal); {
	case stop && (!rewritten || to != 0):
		l.ending = true
	case r.Signal == l.opts.ReloadSignal && !stop && !rewritten:
		l.emit(Event{Kind: Signalled, Signal: r.Signal, SenderPID: r.PID, SenderUID: r.UID, FromKernel: r.FromKernel()})
		go l.opts.ReloadAsked("it was sent " + signals.Name(r.Signal))
		return
	}
	for _, w := range l.all() {
		select {
		case w.signals <- r:
		case <-w.app.over:
		}
	}
}

// reap takes the exits of all dead children, and hands them to their owners.
func (l *Pool) reap() {
	l.mu.Lock()
	r := l.kernel.Reap()
	var to []*worker
	for _, e := range r.Exits {
		if w := l.owners[e.PID].worker; w != nil {
			delete(l.owners, e.PID)
			w.reaped = append(w.reaped, e)
			to = append(to, w)
		}
	}
	l.mu.Unlock()
	killed := false
	for _, e := range r.Orphans {
		l.emit(Event{Kind: OrphanReaped, PID: e.PID, Exit: e})
		killed = killed || e.Signal == syscall.SIGKILL
	}
	if killed {
		if n := l.oom.look(l.kernel.OOMKills); n > 0 {
			l.emit(Event{Kind: OOMKilled, Count: n})
		}
	}
	if len(r.Orphans) > 0 {
		to = l.all() // leftovers may have been among them
	}
	for _, w := range to {
		select {
		case w.children <- struct{}{}:
		default:
		}
	}
	if r.More {
		select {
		case l.again <- struct{}{}:
		default:
		}
	}
}

// emit tells the observers what happened.
func (l *Pool) emit(e Event) {
	e.Time = time.Now()
	l.observing.Lock()
	defer l.observing.Unlock()
	for _, o := range l.observers {
		o.Observe(e)
	}
}

// Tell tells the worker of a process what that process has said.
func (l *Pool) Tell(t Told) {
	l.mu.Lock()
	w := l.owners[t.PID].worker
	l.mu.Unlock()
	if w != nil {
		w.app.Tell(t)
	}
}

// Owner gives the process that a worker has started and that another one is, or
// is below.
func (l *Pool) Owner(pid int) (main int, ok bool) {
	return reaper.Ancestor(pid, func(pid int) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.owners[pid].worker != nil
	})
}

// Snapshots gives what is true of each worker that serves, by their numbers.
func (l *Pool) Snapshots() []*Snapshot {
	var list []*Snapshot
	for _, w := range l.serving() {
		list = append(list, w.app.Snapshot())
	}
	return list
}

// Snapshot gives what is true of all workers as of one app: what it is able to do
// is what the best of them is, and the counts are those of all.
func (l *Pool) Snapshot() *Snapshot {
	list, ended := l.Snapshots(), l.past.Load()
	if len(list) == 0 && ended != nil {
		return ptr(*ended)
	}
	if len(list) == 0 {
		return &Snapshot{State: StateStopped, NotReady: "it has ended", RestartsRemaining: -1}
	}
	best := list[0]
	for _, s := range list[1:] {
		if s.Ready && !best.Ready || s.State == StateRunning && best.State != StateRunning {
			best = s
		}
	}
	sum := *best
	sum.Worker, sum.Starts, sum.Restarts = 0, 0, 0
	if ended != nil {
		sum.Starts, sum.Restarts = ended.Starts, ended.Restarts
	}
	for _, s := range list {
		sum.Starts += s.Starts
		sum.Restarts += s.Restarts
		sum.Spinning = sum.Spinning || s.Spinning
		if s.RestartsRemaining >= 0 && (sum.RestartsRemaining < 0 || s.RestartsRemaining < sum.RestartsRemaining) {
			sum.RestartsRemaining = s.RestartsRemaining
		}
		if s.UnreadySince.IsZero() {
			sum.UnreadySince = time.Time{}
		}
		if sum.UnkillableSince.IsZero() || !s.UnkillableSince.IsZero() && s.UnkillableSince.Before(sum.UnkillableSince) {
			sum.UnkillableSince = s.UnkillableSince
		}
		if s.LastExitAt.After(sum.LastExitAt) {
			sum.LastExit, sum.LastExitAt, sum.LastReason = s.LastExit, s.LastExitAt, s.LastReason
		}
	}
	return &sum
}

// CheckReady tells whether a worker is ready and, if none is, why the first is not.
func (l *Pool) CheckReady(ctx context.Context) (ok bool, why string) {
	why = "it has ended"
	for i, w := range l.serving() {
		ok, not := w.app.CheckReady(ctx)
		if ok {
			return true, ""
		}
		if i == 0 {
			why = not
		}
	}
	return false, why
}

// Ping comes back when the loops of the pool and of its workers have answered, or
// with the context's error.
func (l *Pool) Ping(ctx context.Context) error {
	reply := make(chan struct{})
	select {
	case l.pings <- reply:
	case <-l.over:
		return errors.New("the app has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, w := range l.serving() {
		if err := w.app.Ping(ctx); err != nil && ctx.Err() != nil {
			return err // one that has ended is no failure
		}
	}
	return nil
}

// Recall tells of restarts that earlier supervisors of the app have made, as
// App.Recall does: they count for each worker.
func (l *Pool) Recall(ago []time.Duration) {
	for _, w := range l.serving() {
		w.app.Recall(ago)
	}
}

// Restart does what App.Restart does, with all workers at the same time.
func (l *Pool) Restart(ctx context.Context, reason Reason, text string) error {
	workers, all := l.living(), len(l.serving())
	errs := make(chan error, len(workers))
	for _, w := range workers {
		go func() {
			err := w.app.Restart(ctx, reason, text)
			if errors.Is(err, errRetired) {
				err = nil // by a reload: there is a new process
			}
			errs <- err
		}()
	}
	var err error
	for range workers {
		err = cmp.Or(err, <-errs)
	}
	switch {
	case len(workers) == 0:
		return ErrEnding
	case len(workers) < all && err == nil:
		return l.Grow(ctx, all) // those that gave up begin anew
	}
	return err
}

// Stop ends all workers as App.Stop ends one.
func (l *Pool) Stop(ctx context.Context, by syscall.Signal) error {
	select {
	case l.stops <- stopRequest{by}:
	case <-l.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-l.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Signal sends all workers a signal, as App.Signal does. The error is that of the
// first one that could not be sent it, unless another one was.
func (l *Pool) Signal(ctx context.Context, s syscall.Signal, text string) error {
	err, sent := ErrEnding, false
	for i, w := range l.serving() {
		switch e := w.app.Signal(ctx, s, text); {
		case e == nil:
			sent = true
		case i == 0:
			err = e
		}
	}
	if sent {
		return nil
	}
	return err
}
