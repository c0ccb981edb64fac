package pid1

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"evermore/reaper"
	"evermore/signals"
)

// ReloadResult is how a reload ended.
type ReloadResult string

const (
	ReloadOK         ReloadResult = "ok"
	ReloadRolledBack ReloadResult = "rolled_back" // the old processes go on
	ReloadRefused    ReloadResult = "refused"     // nothing was started
	ReloadFailed     ReloadResult = "failed"      // the old process had ended before the new one could serve
)

// ReloadResults lists every ReloadResult.
func ReloadResults() []ReloadResult {
	return []ReloadResult{ReloadOK, ReloadRolledBack, ReloadRefused, ReloadFailed}
}

// reload replaces the processes of a pool, one after the other.
type reload struct {
	text string
	done []chan error

	// What follows is set when it begins.
	began     time.Time
	overlap   bool
	slots     []int   // the workers that are still to be replaced
	candidate *worker // is to take the place of the first of them
	old       *worker // is waited for: it has been replaced, or is being started anew
	restarted bool    // it has been started anew, and is to be ready
	result    ReloadResult
	err       error // why it is rolled back, once the candidate has ended
}

// scaleRequest asks for a number of processes; later: when a reload is under way,
// behind it.
type scaleRequest struct {
	n     int
	later bool
	keep  int // the process that is to stay in any case; 0: those with the lowest numbers
	done  chan scaled
}

// scaled are the workers that there are no more, or why nothing was done.
type scaled struct {
	ending []*worker
	err    error
}

// promotion is what a process takes over from the one whose place it takes.
type promotion struct {
	starts, restarts int
	history          History
	done             chan struct{} // closed when it is told
}

// Reload replaces each process by a new one: new before old where they can serve
// side by side. When a new one ends, or isn't ready in time, all that have not been
// replaced yet go on, and the error says why. A reload that is asked for during
// another one follows it. With the context's error the reload goes on. text is what
// the log says of the cause.
func (l *Pool) Reload(ctx context.Context, text string) error {
	done := make(chan error, 1)
	select {
	case l.reloads <- &reload{text: text, done: []chan error{done}}:
	case <-l.over:
		return ErrEnding
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Scale makes n the number of processes: more are started, or those with the
// highest numbers are ended in order. It does not wait for either. During a reload it
// is an error.
func (l *Pool) Scale(ctx context.Context, n int) error {
	return l.scale(ctx, scaleRequest{n: n}).err
}

// Grow is Scale that waits for the end of a reload.
func (l *Pool) Grow(ctx context.Context, n int) error {
	return l.scale(ctx, scaleRequest{n: n, later: true}).err
}

// Alone makes one process the only one, and returns when the others have ended: the one
// of that pid or, where it is none, the first. It waits for the end of a reload.
func (l *Pool) Alone(ctx context.Context, pid int) error {
	s := l.scale(ctx, scaleRequest{n: 1, later: true, keep: pid})
	for _, w := range s.ending {
		select {
		case <-w.app.over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.err
}

func (l *Pool) scale(ctx context.Context, r scaleRequest) scaled {
	r.done = make(chan scaled, 1)
	select {
	case l.scales <- r:
		select {
		case s := <-r.done:
			return s
		case <-ctx.Done():
			return scaled{err: ctx.Err()}
		}
	case <-l.over:
		return scaled{err: ErrEnding}
	case <-ctx.Done():
		return scaled{err: ctx.Err()}
	}
}

// scaleRequested: somebody wants another number of processes.
func (l *Pool) scaleRequested(r scaleRequest) {
	if r.later && l.reload != nil && !l.ending {
		l.waiting = append(l.waiting, r)
		return
	}
	r.done <- l.scaleTo(r.n, r.keep)
}

func (l *Pool) scaleTo(n, keep int) (s scaled) {
	switch {
	case l.ending:
		return scaled{err: ErrEnding}
	case n < 1:
		return scaled{err: errors.New("there has to be one process at least: stop ends all")}
	case l.reload != nil:
		return scaled{err: errors.New("a reload is under way: scale when it is over")}
	case len(l.later) > 0:
		return scaled{err: errors.New("the command of --before runs: scale when the app is started")}
	}
	l.clear() // who gave up begins anew
	workers := l.serving()
	if n != len(workers) {
		l.emit(Event{Kind: Scaled, Count: n})
	}
	for number := 0; len(l.serving()) < n; number++ {
		if slices.ContainsFunc(l.serving(), func(w *worker) bool { return w.n == number }) {
			continue
		}
		if w, _, err := l.add(number); err != nil {
			l.serve(l.without(w)) // the others go on
			return scaled{err: err}
		}
	}
	l.mu.Lock()
	kept := l.owners[keep].worker
	l.mu.Unlock()
	for i := len(workers) - 1; i >= 0 && len(l.serving()) > n; i-- {
		if workers[i] != kept {
			s.ending = append(s.ending, workers[i])
			l.replace(workers[i], nil, ReasonRequest)
		}
	}
	return s
}

// replace puts a worker in the place of another one, or nothing, and ends that one.
func (l *Pool) replace(old, by *worker, why Reason) {
	workers := l.without(old)
	if by != nil {
		workers = append(workers, by)
	}
	l.serve(workers)
	l.leaving = append(l.leaving, old)
	l.retire(old, why)
}

// reloadRequested: somebody wants new processes.
func (l *Pool) reloadRequested(r *reload) {
	switch {
	case l.ending:
		r.answer(ErrEnding)
	case len(l.serving()) == 0:
		r.answer(ErrEnding)
	case l.serving()[0].app.Snapshot().State == StatePreparing:
		r.answer(errors.New("the command of --before runs: reload when the app is started"))
	case l.reload == nil:
		l.beginReload(r)
	case l.next == nil:
		l.next = r
	default:
		l.next.done = append(l.next.done, r.done...)
	}
}

func (r *reload) answer(err error) {
	for _, done := range r.done {
		done <- err
	}
}

// failure is what those who asked for the reload are told; nil: it is done.
func (r *reload) failure() error {
	switch r.result {
	case ReloadRolledBack:
		return fmt.Errorf("rolled back: %w", r.err)
	case ReloadRefused:
		return fmt.Errorf("refused: %w", r.err)
	default:
		return r.err
	}
}

func (l *Pool) beginReload(r *reload) {
	l.reload = r
	r.began, r.result = time.Now(), ReloadOK
	text := r.text
	if l.opts.Overlap != nil {
		err := l.opts.Overlap()
		if r.overlap = err == nil; !r.overlap {
			text += ", the old process first: " + err.Error()
		}
	}
	for _, w := range l.serving() {
		r.slots = append(r.slots, w.n)
	}
	l.emit(Event{Kind: Reloading, Text: text})
	l.replaceNext()
}

// replaceNext begins to replace the next process, or ends the reload.
func (l *Pool) replaceNext() {
	r := l.reload
	r.candidate, r.old, r.restarted = nil, nil, false
	l.readyBy.stop()
	if l.ending {
		l.failReload(ErrEnding)
		return
	}
	var old *worker
	for old == nil {
		if len(r.slots) == 0 {
			l.endReload()
			return
		}
		n := r.slots[0]
		r.slots = r.slots[1:]
		if i := slices.IndexFunc(l.serving(), func(w *worker) bool { return w.n == n }); i >= 0 {
			old = l.serving()[i]
		}
	}
	r.old = old
	if !r.overlap && old.down {
		l.serve(l.without(old))
		w, _, err := l.add(old.n)
		if err != nil {
			l.serve(l.without(w))
			r.result, r.err = ReloadFailed, err
			l.endReload()
			return
		}
		r.old, r.restarted = w, true
		l.readyBy.set(l.opts.ReadyTimeout)
		return
	}
	if !r.overlap {
		go func() {
			err := old.app.Restart(context.Background(), ReasonReload, r.text)
			l.tell(news{worker: old, what: workerRestarted, err: err})
		}()
		return
	}
	if err := l.hasRoom(old); err != nil {
		r.result, r.err = ReloadRefused, err
		l.endReload()
		return
	}
	w := l.worker(old.n, func(o *Options) { o.Before, o.Adopt, o.MustStart = nil, nil, true })
	w.app.trial.Store(true)
	w.app.history = old.app.snapshot.Load().history
	if _, err := w.app.Start(); err != nil {
		r.result, r.err = ReloadRolledBack, err
		l.endReload()
		return
	}
	r.candidate = w
	l.readyBy.set(l.opts.ReadyTimeout)
	l.run(w)
}

// hasRoom tells whether there is memory for a second process: it will need what
// the first one does.
func (l *Pool) hasRoom(old *worker) error {
	pid := old.app.Snapshot().PID
	l.mu.Lock()
	p := l.owners[pid].process
	l.mu.Unlock()
	if p == nil {
		return nil // it is down, and needs none
	}
	need, known := l.kernel.Memory(p)
	left, limit, limited := l.kernel.Headroom()
	if !known || !limited || need <= left {
		return nil
	}
	const mb = 1 << 20
	return fmt.Errorf("there is no room for a second process: this one uses %d MB, and %d of the container's %d MB are left: raise the limit, or use --reload-mode restart",
		need/mb, left/mb, limit/mb)
}

// ready: a worker has become ready.
func (l *Pool) ready(w *worker) {
	r := l.reload
	switch {
	case r == nil || r.err != nil:
	case w == r.candidate:
		if !w.app.trial.CompareAndSwap(true, false) {
			return // it has ended meanwhile
		}
		l.readyBy.stop()
		r.candidate = nil
		old := r.old.app.snapshot.Load()
		p := promotion{old.snap.Starts, old.snap.Restarts, old.history, make(chan struct{})}
		isThere := slices.Contains(l.serving(), r.old)
		if !isThere { // it was over by itself, and is counted
			p.starts, p.restarts = 0, 0
		}
		select {
		case w.app.promoted <- p:
			<-p.done
		case <-w.app.over:
		}
		if !isThere || r.old.down {
			l.serve(append(l.without(r.old), w))
			l.replaceNext()
			return
		}
		l.replace(r.old, w, ReasonReload) // the next one when it has ended
	case w == r.old && r.restarted:
		l.replaceNext()
	}
}

// restarted: a worker was ended, and started anew.
func (l *Pool) restarted(w *worker, err error) {
	r := l.reload
	switch {
	case r == nil || r.old != w:
	case err != nil:
		r.result, r.err = ReloadFailed, err
		l.endReload()
	case w.app.Snapshot().Ready:
		l.replaceNext()
	default:
		r.restarted = true
		l.readyBy.set(l.opts.ReadyTimeout)
	}
}

// left: a worker that was ended for good has ended.
func (l *Pool) left(w *worker) {
	if r := l.reload; r != nil && r.old == w {
		l.replaceNext()
	}
}

// readyTimeElapsed: the new process is not ready in time.
func (l *Pool) readyTimeElapsed() {
	r := l.reload
	switch {
	case r == nil || r.err != nil:
	case r.candidate != nil:
		r.result = ReloadRolledBack
		r.err = fmt.Errorf("the new process is not ready after %s: %s", l.opts.ReadyTimeout, r.candidate.app.Snapshot().NotReady)
		l.retire(r.candidate, ReasonReload) // the reload is over when it has ended
	case r.restarted:
		r.result = ReloadFailed
		r.err = fmt.Errorf("the new process is not ready after %s: %s", l.opts.ReadyTimeout, r.old.app.Snapshot().NotReady)
		l.endReload()
	}
}

// candidateEnded: the new process has ended, by itself or since it wasn't ready.
func (l *Pool) candidateEnded(n news) {
	r := l.reload
	if r.err == nil {
		r.result = ReloadRolledBack
		r.err = fmt.Errorf("the new process ended before it was ready: %s", n.worker.app.Snapshot().LastExit)
	}
	r.candidate = nil
	if l.ending {
		l.failReload(ErrEnding)
		return
	}
	l.endReload()
}

// endReload ends the reload that is under way, and begins the one that waits.
func (l *Pool) endReload() {
	r := l.reload
	l.reload = nil
	l.readyBy.stop()
	l.emit(Event{Kind: Reloaded, Result: r.result, Uptime: time.Since(r.began), Text: r.text, Err: r.err})
	r.answer(r.failure())
	waiting := l.waiting
	l.waiting = nil
	for _, s := range waiting {
		l.scaleRequested(s)
	}
	if next := l.next; next != nil {
		l.next = nil
		l.reloadRequested(next)
	}
}

// failReload answers whoever waits for a reload.
func (l *Pool) failReload(err error) {
	for _, r := range []*reload{l.reload, l.next} {
		if r != nil {
			r.answer(err)
		}
	}
	for _, s := range l.waiting {
		s.done <- scaled{err: err}
	}
	l.reload, l.next, l.waiting = nil, nil, nil
}

// Reload starts the app anew, as Restart does: what one App supervises is ended
// before the next can begin.
func (a *App) Reload(ctx context.Context, text string) error {
	return a.Restart(ctx, ReasonReload, text)
}

// Scale is refused: an App is one process.
func (a *App) Scale(context.Context, int) error {
	return errors.New("it is one process that shares nothing: start it with -i N to have several")
}

// promote: the process takes the place of another one.
func (a *App) promote(p promotion) {
	if a.snap.Restarts == 0 { // it has not ended since it was ready
		a.history = p.history
	}
	a.snap.Starts += p.starts
	a.snap.Restarts += p.restarts + 1
	a.emit(Event{Kind: Replaced, PID: a.snap.PID, Reason: ReasonReload, Restarts: a.snap.Restarts})
	close(p.done)
}

// retire: another process has taken the place of this one, or there is to be one
// less.
func (a *App) retire(why Reason) {
	a.retired = why
	a.stopRequested(0, a.killSignal())
}

// What follows is a worker's share of what there is: of the kernel, the signals and
// the observers.

func (w *worker) own(p Process, err error) (Process, error) {
	if err == nil {
		w.pool.owners[p.PID()] = owned{w, p}
	}
	return p, err
}

// Start holds the lock until it is known whose exit the process's will be.
func (w *worker) Start(c reaper.Command) (Process, error) {
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	return w.own(w.pool.kernel.Start(c))
}

func (w *worker) Adopt(a reaper.Adoption) (Process, error) {
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	return w.own(w.pool.kernel.Adopt(a))
}

func (w *worker) Reap() reaper.Reaped {
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	r := reaper.Reaped{Exits: w.reaped}
	w.reaped = nil
	return r
}

// Zombies are looked for by one of the workers.
func (w *worker) Zombies() []reaper.Zombie {
	if s := w.pool.living(); len(s) == 0 || s[0] != w {
		return nil
	}
	return w.pool.kernel.Zombies()
}

func (w *worker) Leftovers(p Process) []Leftover         { return w.pool.kernel.Leftovers(p) }
func (w *worker) Gone() <-chan struct{}                  { return nil } // by Children
func (w *worker) Memory(p Process) (int64, bool)         { return w.pool.kernel.Memory(p) }
func (w *worker) OOMKills() (uint64, bool)               { return w.pool.kernel.OOMKills() }
func (w *worker) Usage(before *Usage) Usage              { return w.pool.kernel.Usage(before) }
func (w *worker) Headroom() (left, limit int64, ok bool) { return w.pool.kernel.Headroom() }
func (w *worker) Sacrifice(p Process)                    { w.pool.kernel.Sacrifice(p) }
func (w *worker) Signals() <-chan signals.Received       { return w.signals }
func (w *worker) Children() <-chan struct{}              { return w.children }
func (w *worker) SetTarget(int) error                    { return nil } // the loops forward
func (w *worker) JustForwarded(syscall.Signal) bool      { return false }

// Observe is told of the events of the worker's App.
func (w *worker) Observe(e Event) {
	e.Worker = w.n
	switch e.Kind {
	case Started:
		w.pool.tell(news{worker: w, what: workerBegan})
	case Ready:
		w.pool.tell(news{worker: w, what: workerReady})
	case GaveUp:
		w.gaveUp = true
	case Stopped:
		w.reason = e.Reason
		return // the pool tells of the end of all
	}
	w.pool.observing.Lock()
	defer w.pool.observing.Unlock()
	for _, o := range w.pool.observers {
		o.Observe(e)
	}
}
