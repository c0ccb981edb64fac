package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"evermore/cgroup"
	"evermore/control"
	pid1 "evermore/init"
	"evermore/metrics"
	"evermore/node"
	"evermore/reaper"
)

// supervised is the app, as one process or several: a *pid1.App or a *pid1.Pool.
type supervised interface {
	Start() (code int, err error)
	Run() int
	Snapshot() *pid1.Snapshot
	Snapshots() []*pid1.Snapshot
	Ping(context.Context) error
	CheckReady(context.Context) (ok bool, why string)
	Recall(ago []time.Duration)
	Restart(ctx context.Context, reason pid1.Reason, text string) error
	Reload(ctx context.Context, text string) error
	Scale(ctx context.Context, n int) error
	Stop(ctx context.Context, by syscall.Signal) error
	Signal(ctx context.Context, s syscall.Signal, text string) error
}

// heldPorts are the ports of --hold: those that are named, and whether those that
// the app binds are to be learned.
type heldPorts struct {
	addresses []node.Address
	auto      bool
}

// holds tells whether ports are held.
func (s *settings) holds() bool {
	return len(s.held.addresses) > 0 || s.held.auto || s.isGiven("instances")
}

// links tells whether there is a line to the app's processes: only what needs one
// has node run anything.
func (s *settings) links() bool {
	by := s.app.Ready.By
	return s.holds() || s.app.HangTimeout > 0 || s.nodeMetrics || s.pm2Messages || by == pid1.ReadyListening || by == pid1.ReadyMessage
}

func (s *settings) addHeld(list string) error {
	for text := range strings.SplitSeq(list, ",") {
		if text == "auto" {
			s.held.auto = true
			continue
		}
		a, err := node.ParseAddress(text, absolute("."))
		if err != nil {
			return err
		}
		if !slices.Contains(s.held.addresses, a) {
			s.held.addresses = append(s.held.addresses, a)
		}
	}
	return nil
}

// parseInstances reads a number of processes; "max", and pm2's 0: as many as there
// are processors for them.
func parseInstances(text string) (int, error) {
	if text == "max" || text == "0" {
		limit, limited := cgroup.Own("/").CPULimit()
		return mostInstances(runtime.NumCPU(), limit, limited), nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || n > control.MaxInstances {
		return 0, fmt.Errorf("cannot read %q as a number of processes: use 1 to %d, or max", text, control.MaxInstances)
	}
	return int(n), nil
}

// mostInstances is a process for each processor, and none for which the control
// group's limit leaves less than a part of one. Under a limit Go's own GOMAXPROCS
// would be 2 at the least.
func mostInstances(processors int, limit float64, limited bool) int {
	if limited {
		processors = min(processors, max(int(math.Ceil(limit)), 1))
	}
	return min(processors, control.MaxInstances)
}

// pool makes the pool of the app's processes, of options that are complete.
func (r *running) pool(o pid1.Options, kernel pid1.Processes) *pid1.Pool {
	p := pid1.PoolOptions{Options: o, Instances: r.instances, ReadyTimeout: r.readyTimeout}
	if r.reloadMode == reloadOverlap {
		p.Overlap = r.holding.overlaps
	}
	if r.isGiven("instances") {
		p.ReloadSignal = syscall.SIGHUP
		p.ReloadAsked = func(text string) { _ = r.reload(context.Background(), text) } // it has its own events
		adopted := r.siblings(o.Adopt)
		p.Instance = func(worker int, o pid1.Options) pid1.Options {
			if worker > 0 && worker < len(adopted) {
				o.Adopt = &adopted[worker]
			}
			instance := r.instanceVar + "=" + strconv.Itoa(worker)
			o.Command.Env = with(slices.Clone(o.Command.Env), instance)
			if refresh := o.Refresh; refresh != nil {
				o.Refresh = func(c *reaper.Command) error {
					err := refresh(c)
					c.Env = with(slices.Clone(c.Env), instance)
					return err
				}
			}
			return o
		}
		switch {
		case o.Adopt != nil && r.holding.adopted:
			p.Instances = len(adopted) // the others follow when there is something to share
		case o.Adopt != nil:
			p.Instances = max(len(adopted), r.instances)
		case r.holding.learns():
			p.Instances = 1
		}
	}
	return pid1.NewPool(p, kernel, r.catcher, r, r.lines)
}

// siblings are the processes that a supervisor which was killed has left behind, the
// one that is to be adopted first.
func (r *running) siblings(first *reaper.Adoption) []reaper.Adoption {
	if first == nil {
		return nil
	}
	all := []reaper.Adoption{*first}
	for _, a := range reaper.Siblings(*first) {
		env, err := environOf(a.PID)
		if err == nil && slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, r.instanceVar+"=") }) {
			all = append(all, a)
		}
	}
	return all
}

// The values of --reload-mode.
const (
	reloadOverlap = "overlap"
	reloadRestart = "restart"
)

// holding is what there is between evermore and the app's own processes: the ports
// that are held for them, and a line to each. It is the pid1.Link of the app.
type holding struct {
	running *running
	link    *node.Link
	sockets *node.Sockets
	pool    atomic.Pointer[pid1.Pool]
	metrics atomic.Pointer[metrics.Metrics]
	done    chan struct{} // closed when nothing is heard any more

	mu        sync.Mutex
	regaining bool                               // they are being ended for it
	adopted   bool                               // processes that were adopted have the ports
	wanted    []node.Address                     // to be held from the next start on
	auto      bool                               // what the app binds by itself joins them
	listening map[node.From]map[node.Address]int // what each thread listens on, and how often
	unheld    map[node.From]map[node.Address]int
	alive     map[int]bool   // the processes that evermore has started, by pid
	used      []node.Address // held, and listened on by who was ready last
	vacant    *time.Timer    // runs while nobody listens on what is held
	refusing  bool           // nobody has listened for so long that it is told
	ending    bool           // nothing is started any more
	warned    map[string]bool
	learned   map[node.Address]bool // are held, or will be, because the app has bound them
	unused    *time.Timer           // runs until they are to be in use
	unfit     map[node.Address]bool // were given up: held once more, they would be so again
	told      time.Time             // when a process was last complained of
	untold    int                   // complaints since then
	portless  bool                  // it was ready without any
	unheard   bool                  // somebody listens who can't be heard
}

// mostLearned bounds what is held because the app has listened there.
const mostLearned = 16

// leastUnused is how long such an address may be out of use at the least, while an app
// begins to listen on one after the other.
const leastUnused = 5 * time.Second

// mostWarnings bounds what is told once: the app has a say in it.
const mostWarnings = 100

// openLink opens the line to the app's processes, and binds the ports.
func (r *running) openLink(o *pid1.Options) error {
	h := &holding{
		running: r, done: make(chan struct{}), auto: r.held.auto || r.isGiven("instances") && len(r.held.addresses) == 0,
		sockets:   node.NewSockets(o.Command.User),
		listening: map[node.From]map[node.Address]int{}, unheld: map[node.From]map[node.Address]int{},
		alive: map[int]bool{}, warned: map[string]bool{}, learned: map[node.Address]bool{}, unfit: map[node.Address]bool{},
	}
	// What a process is not permitted to bind is held where it is named.
	may := func(a node.Address) bool {
		named, ok := portOf(o.Command.Env)
		return slices.Contains(r.held.addresses, a) || h.auto && (h.sockets.Permits(a) == nil || ok && a == named)
	}
	if o.Adopt != nil {
		regain(o.Adopt, h.sockets, may)
		h.used = h.sockets.Addresses()
		h.unheard = len(h.used) > 0 // the process speaks to who is no more
	}
	for _, a := range r.held.addresses {
		err := h.sockets.Add(a)
		if err == nil {
			continue
		}
		if o.Adopt == nil {
			h.sockets.Close()
			return &failure{code: 1, err: fmt.Errorf("%s: %w", r.given["hold"], err)}
		}
		h.wanted, h.adopted = append(h.wanted, a), true
	}
	if o.Adopt != nil && h.auto {
		h.wanted = slices.DeleteFunc(heldBy(o.Adopt.PID), func(a node.Address) bool {
			return !may(a) || slices.Contains(h.used, a)
		})
		h.adopted = len(h.wanted) > 0
	} else if a, ok := portOf(o.Command.Env); ok && h.auto && h.sockets.Add(a) != nil {
		h.wanted = append(h.wanted, a)
	}
	var err error
	h.link, err = node.Listen(node.Options{
		Owner: h.owner, Sockets: h.sockets, Dirs: linkDirs(), PreloadDirs: preloadDirs(),
		AtStart: o.HangTimeout > 0 || r.nodeMetrics,
		Stats:   r.nodeMetrics, Messages: r.pm2Messages,
	})
	if err != nil {
		h.sockets.Close()
		return err
	}
	if !h.link.HasFile() {
		r.say(levelWarn, "node before version 22 can't be heard: there is no folder for a socket (TMPDIR, /tmp and /dev/shm can't be written)")
	}
	r.holding, o.Link = h, h
	go h.listen()
	h.mu.Lock()
	h.watchVacancy()
	h.mu.Unlock()
	return nil
}

// regain takes the sockets that a process which is to be adopted has inherited.
func regain(a *reaper.Adoption, s *node.Sockets, may func(node.Address) bool) {
	pidfd, err := unix.PidfdOpen(a.PID, 0)
	if err != nil {
		return
	}
	defer unix.Close(pidfd)
	env, err := environOf(a.PID)
	if start, errStart := reaper.StartTime(a.PID); err == nil && errStart == nil && start == a.StartTime {
		s.Regain(pidfd, env, may)
	}
}

// heldBy gives the ports that the supervisor which has started a process held for it.
func heldBy(pid int) []node.Address {
	env, err := environOf(pid)
	if err != nil {
		return nil // then they are learned
	}
	return node.HeldBy(env)
}

// linkDirs are where a socket may be that any user's node can reach.
func linkDirs() []string { return []string{os.TempDir(), "/tmp", "/dev/shm"} }

// preloadDirs are where a file may be that all processes of the app can read, however
// long they run: those that root starts may be, or become, any user's.
func preloadDirs() []string {
	if os.Geteuid() == 0 {
		return []string{"/run", "/dev/shm"}
	}
	root, err := control.Root()
	if err != nil {
		return nil
	}
	return []string{root}
}

// portOf is the port that an environment names by PORT.
func portOf(env []string) (node.Address, bool) {
	for _, v := range slices.Backward(env) {
		if text, ok := strings.CutPrefix(v, "PORT="); ok {
			a, err := node.ParseAddress(text, "")
			return a, err == nil && a.Path == "" && a.Host == ""
		}
	}
	return node.Address{}, false
}

// close gives everything up.
func (h *holding) close() {
	if h == nil {
		return
	}
	h.mu.Lock()
	for _, t := range []*time.Timer{h.vacant, h.unused} {
		if t != nil {
			t.Stop()
		}
	}
	h.ending = true
	h.mu.Unlock()
	h.sockets.Close()
	h.link.Close()
	close(h.done)
}

// owner asks the pool whose process it is.
func (h *holding) owner(pid int) (int, bool) {
	if p := h.pool.Load(); p != nil {
		return p.Owner(pid)
	}
	return 0, false
}

// learns tells whether the first process is to show which ports there are.
func (h *holding) learns() bool {
	return h.auto && len(h.sockets.Addresses()) == 0
}

// Hand gives the next process the sockets.
func (h *holding) Hand(c *reaper.Command, start func() error) error {
	h.mu.Lock()
	var refused error
	h.wanted = slices.DeleteFunc(h.wanted, func(a node.Address) bool {
		err := h.sockets.Add(a)
		if err != nil && !h.adopted {
			h.warnOnce(err)
		}
		refused = cmp.Or(refused, err)
		return err == nil
	})
	adopted := h.adopted
	h.adopted = adopted && refused != nil
	if err := h.sockets.Reopen(); err != nil {
		h.warnOnce(err)
	}
	lost := h.adopted
	if lost && !h.regaining {
		h.regaining = true
		go h.regain()
	}
	h.mu.Unlock()
	switch {
	case lost:
		return &reaper.StartError{Name: c.Argv[0], What: "start", Err: refused}
	case adopted && h.running.instances > 1:
		go h.grow()
	}
	return h.sockets.Inherit(func(files []uintptr, held node.Held) error {
		c.Files = append(slices.Clip(c.Files), files...)
		c.Env = h.link.Environ(c.Argv, c.Env, held)
		return start()
	})
}

// warnOnce tells of what would be told at each start.
func (h *holding) warnOnce(err error) {
	if text := err.Error(); !h.warned[text] && len(h.warned) < mostWarnings {
		h.warned[text] = true
		h.running.warn(err)
	}
}

// Drain has a process end what it has begun.
func (h *holding) Drain(pid int, last bool) bool {
	h.mu.Lock()
	h.ending = h.ending || last
	h.mu.Unlock()
	return h.link.Drain(pid, h.running.drainPause) > 0
}

// Stopping says that the stop signal comes.
func (h *holding) Stopping(pid int) { h.link.Stopping(pid) }

// Ping asks the event loops of a process and of those below it.
func (h *holding) Ping(pid int) time.Duration {
	_, owed := h.link.Ping(pid)
	return owed
}

// Forgive asks them anew.
func (h *holding) Forgive(pid int) { h.link.Forgive(pid) }

// Stack gives the stack of the one that hangs.
func (h *holding) Stack(ctx context.Context, pid int) (string, error) {
	if silent, owed := h.link.Ping(pid); owed > 0 {
		pid = silent
	}
	return node.Stack(ctx, pid)
}

// overlaps tells why no new process can listen beside the one before, which it can on
// held ports only; nil: it can.
func (h *holding) overlaps() error {
	if err := h.alone(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.used) == 0 {
		return errors.New("it does not listen on what is held")
	}
	return nil
}

// alone tells why there can't be more processes; nil: there can.
func (h *holding) alone() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, at := range h.unheld {
		for a := range at {
			return fmt.Errorf("it listens on %s, which is not held", a)
		}
	}
	return nil
}

// ready: the app is ready. One that does not listen is shared by as many processes as
// there are to be, as soon as that is known.
func (h *holding) ready() {
	if h == nil || !h.running.isGiven("instances") || h.running.settings.app.Ready.By == pid1.ReadyListening {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.portless && h.learns() && len(h.unheld) == 0 && len(h.wanted) == 0 && len(h.unfit) == 0 {
		h.portless = true
		go h.grow()
	}
}

// reload replaces the app's processes.
func (r *running) reload(ctx context.Context, text string) error {
	if began, err := r.holding.regainBy(ctx, pid1.ReasonReload, text); began {
		return err
	}
	return r.app.Reload(ctx, text)
}

// restart starts the app's processes anew.
func (r *running) restart(ctx context.Context, reason pid1.Reason, text string) error {
	if began, err := r.holding.regainBy(ctx, reason, text); began {
		return err
	}
	return r.app.Restart(ctx, reason, text)
}

// regainBy has all processes end before the first one starts, where those that were
// adopted have the ports. Otherwise it does nothing.
func (h *holding) regainBy(ctx context.Context, reason pid1.Reason, text string) (began bool, err error) {
	if h == nil {
		return false, nil
	}
	h.mu.Lock()
	began = h.adopted
	h.regaining = h.regaining || began
	h.mu.Unlock()
	if !began {
		return false, nil
	}
	if err = h.restart(ctx, reason, text); err != nil {
		h.mu.Lock()
		h.regaining = false
		h.mu.Unlock()
	}
	return true, err
}

// listen hears what the app's processes tell, until the link is closed.
func (h *holding) listen() {
	for {
		select {
		case e := <-h.link.Events():
			h.hear(e)
		case <-h.done:
			return
		}
	}
}

func (h *holding) hear(e node.Event) {
	switch e := e.(type) {
	case node.Listening:
		h.listens(e)
	case node.Closed:
		h.mu.Lock()
		count(h.where(e.Held), e.From, e.Address, -1)
		h.mu.Unlock()
		h.changed(e.Main)
	case node.Gone:
		h.gone(e)
		if e.Why != "" {
			h.complain(fmt.Sprintf("process %d is not listened to any more: %s", e.PID, e.Why))
		}
	case node.Released:
		h.released(e)
	case node.Pong:
		h.pinged(e)
	case node.Drained:
		h.drained(e.Main)
	case node.Unheard:
		h.tell(pid1.Told{PID: e.Main, What: pid1.Finished})
	case node.AppReady:
		h.tell(pid1.Told{PID: e.Main, What: pid1.SaidReady})
	case node.Refused:
		h.complain(fmt.Sprintf("process %d wanted to speak for the app, and was refused: %s", e.PID, e.Why))
	default:
		h.running.warn(fmt.Errorf("internal error: node told %T", e))
	}
}

// complain warns of a process, once a second at the most: it may do anything as often as
// it likes.
func (h *holding) complain(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.told) < time.Second {
		h.untold++
		return
	}
	if h.untold > 0 {
		text += fmt.Sprintf(" (and %d more of the kind before)", h.untold)
	}
	h.told, h.untold = time.Now(), 0
	h.running.warn(errors.New(text))
}

// released: a port was given up for the app to bind.
func (h *holding) released(e node.Released) {
	h.mu.Lock()
	h.used = slices.DeleteFunc(h.used, func(a node.Address) bool { return a == e.Address })
	// The socket that a process inherited may have been closed since, for it was late.
	late := e.Address.Path != "" && h.refusing
	if late {
		h.wanted = append(h.wanted, e.Address)
	} else if delete(h.learned, e.Address); len(h.unfit) < mostWarnings {
		h.unfit[e.Address] = true
	}
	alone := !late && h.running.isGiven("instances") && len(h.sockets.Addresses()) == 0
	h.mu.Unlock()
	switch {
	case late:
		h.running.note(fmt.Sprintf("%s is held again from the next start on: the app was not there within %s", e.Address, h.running.holdTimeout))
	default:
		h.running.warn(fmt.Errorf("%s is not held any more, the app binds it by itself: %s", e.Address, e.Why))
	}
	if alone {
		h.running.warn(errors.New("the app runs as one process: several can't share a port that is not held"))
		go func() { _ = h.pool.Load().Alone(context.Background(), e.Main) }() // the others can't listen
	}
	h.changed(e.Main)
}

// pinged: the event loop of a process has answered.
func (h *holding) pinged(e node.Pong) {
	m := h.metrics.Load()
	if m == nil {
		return
	}
	for _, s := range h.pool.Load().Snapshots() {
		if s.PID == e.Main {
			m.Pinged(s.Worker, e.After)
		}
	}
}

// show adds what is known of the ports and of node's runtime to the metrics.
func (h *holding) show(registry *prometheus.Registry, m *metrics.Metrics) {
	if h == nil {
		return
	}
	h.metrics.Store(m)
	registry.MustRegister(metrics.NewBacklogs(func() (list []metrics.Backlog) {
		for _, b := range h.sockets.Backlogs() {
			list = append(list, metrics.Backlog{Host: b.Host, Port: b.Port, Waiting: b.Waiting, Limit: b.Limit})
		}
		return list
	}))
	if !h.running.nodeMetrics {
		return
	}
	descs := node.NewStatsDescs()
	registry.MustRegister(metrics.NewRuntimes(h.pool.Load(), descs.Describe,
		func(ctx context.Context, pid int, worker string, to chan<- prometheus.Metric) {
			// Who can't be asked is absent.
			if stats, err := h.link.Stats(ctx, pid); err == nil {
				stats.Collect(descs, worker, to)
			}
		}))
}

func (h *holding) tell(t pid1.Told) { h.pool.Load().Tell(t) }

// drained: a process has ended what it had begun. One that knows pm2's message is
// told by it to end.
func (h *holding) drained(main int) {
	if h.running.pm2Messages && h.link.Shutdown(main) {
		return
	}
	h.tell(pid1.Told{PID: main, What: pid1.Finished})
}

// listens: a process listens.
func (h *holding) listens(e node.Listening) {
	h.mu.Lock()
	count(h.where(e.Held), e.From, e.Address, 1)
	late := e.Held && h.refusing
	learned := h.learn(e)
	if len(h.learned) > 0 && h.unused == nil && !h.ending {
		h.unused = time.AfterFunc(max(h.running.holdTimeout, leastUnused), h.unusedElapsed)
	}
	h.mu.Unlock()
	if late {
		// It may have begun in the moment in which the port was closed.
		if err := h.sockets.Resume(); err != nil {
			h.running.warn(err)
		}
	}
	if learned {
		go h.share()
	}
	h.changed(e.Main)
}

func (h *holding) where(held bool) map[node.From]map[node.Address]int {
	if held {
		return h.listening
	}
	return h.unheld
}

// learn takes note of a port that the app binds by itself, and tells whether its
// other processes wait for it.
func (h *holding) learn(e node.Listening) bool {
	if e.Held || !h.auto || h.unfit[e.Address] || h.learned[e.Address] || slices.Contains(h.wanted, e.Address) || len(h.learned) == mostLearned {
		return false
	}
	if err := h.sockets.Permits(e.Address); err != nil {
		h.warnOnce(fmt.Errorf("cannot hold %s: %w", e.Address, err))
		return false
	}
	h.wanted = append(h.wanted, e.Address)
	h.learned[e.Address] = true
	return h.running.isGiven("instances") && len(h.wanted) == 1 && len(h.sockets.Addresses()) == 0
}

// unusedElapsed: what was learned, and is not in use though the app listens, is another
// port at each start. It is not to be open for nothing.
func (h *holding) unusedElapsed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unused = nil
	inUse := map[node.Address]bool{}
	for _, at := range h.listening {
		for a := range at {
			inUse[a] = true
		}
	}
	for a := range h.learned {
		if len(inUse)+len(h.unheld) > 0 && !inUse[a] && !slices.Contains(h.wanted, a) {
			h.sockets.Release(a)
			delete(h.learned, a)
			h.used = slices.DeleteFunc(h.used, func(u node.Address) bool { return u == a })
		}
	}
}

// share starts the app anew on the port that it has shown, and the others with it.
func (h *holding) share() {
	if h.renew("the port that it listens on is shared from now on") {
		h.grow()
	}
}

// regain has all processes that were adopted end, so that their ports can be held
// again. Then the others follow the first.
func (h *holding) regain() {
	if !h.renew("its ports are to be held again") {
		h.mu.Lock()
		h.regaining = false // the next start tries again
		h.mu.Unlock()
	}
}

func (h *holding) renew(why string) bool {
	err := h.restart(context.Background(), pid1.ReasonRequest, why)
	if err != nil && !errors.Is(err, pid1.ErrEnding) {
		h.running.warn(fmt.Errorf("cannot start the app anew: %w", err))
	}
	return err == nil
}

// restart ends all processes, and starts the first one when no other has its ports.
func (h *holding) restart(ctx context.Context, reason pid1.Reason, why string) error {
	if err := h.pool.Load().Alone(ctx, 0); err != nil {
		return err
	}
	return h.running.app.Restart(ctx, reason, why)
}

// grow starts the processes that have waited for ports to share.
func (h *holding) grow() {
	if err := h.pool.Load().Grow(context.Background(), h.running.instances); err != nil && !errors.Is(err, pid1.ErrEnding) {
		h.running.warn(fmt.Errorf("cannot start more processes: %w", err))
	}
}

// changed looks at what a process listens on: whether that is where it is to, and
// whether anybody listens at all.
func (h *holding) changed(main int) {
	h.mu.Lock()
	held, others := h.of(main, h.listening), h.of(main, h.unheld)
	missing := slices.DeleteFunc(slices.Clone(h.used), func(a node.Address) bool { return slices.Contains(held, a) })
	told := pid1.Told{PID: main, What: pid1.NotListening}
	switch {
	case len(missing) == 0 && (len(held) > 0 || len(others) > 0 && (h.auto || len(h.sockets.Addresses()) == 0)):
		told.What, h.used = pid1.Listens, held
	case len(held)+len(others) == 0:
		told.Text = "it does not listen"
	default:
		if len(missing) == 0 {
			missing = h.sockets.Addresses()
		}
		told.Text = fmt.Sprintf("it listens on %s, and not on %s, which is held", join(slices.Concat(held, others)), join(missing))
	}
	h.watchVacancy()
	h.mu.Unlock()
	h.tell(told)
}

// gone: a thread speaks no more. Most often its process has ended, and its exit is
// on its way. What is not listened to any more may serve on.
func (h *holding) gone(e node.Gone) {
	if e.Why != "" {
		return
	}
	h.mu.Lock()
	delete(h.listening, e.From)
	delete(h.unheld, e.From)
	ended := e.PID == e.Main && e.Thread == 0
	if ended {
		h.watchVacancy()
	}
	h.mu.Unlock()
	if !ended {
		h.changed(e.Main)
	}
}

// began: a process of the app runs.
func (h *holding) began(main int) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alive[main] = true
	if h.unheard {
		// Nor will this one be heard.
		time.AfterFunc(h.running.holdTimeout, func() { h.believe(main) })
	}
}

// believe takes a process for one that listens.
func (h *holding) believe(main int) {
	h.mu.Lock()
	unheard := h.unheard && h.alive[main] && len(h.of(main, h.listening)) == 0
	h.mu.Unlock()
	if unheard {
		h.tell(pid1.Told{PID: main, What: pid1.Listens})
	}
}

// exited: one has ended.
func (h *holding) exited(main int) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.alive, main)
	for _, listening := range []map[node.From]map[node.Address]int{h.listening, h.unheld} {
		maps.DeleteFunc(listening, func(from node.From, _ map[node.Address]int) bool { return from.Main == main })
	}
	if len(h.alive) == 0 {
		h.unheard = false
		h.sockets.Vacate()
	}
	h.watchVacancy()
}

// of gives the addresses of a process and of those below it.
func (h *holding) of(main int, listening map[node.From]map[node.Address]int) []node.Address {
	var list []node.Address
	for from, at := range listening {
		for a := range at {
			if from.Main == main && !slices.Contains(list, a) {
				list = append(list, a)
			}
		}
	}
	return list
}

func join(addresses []node.Address) string {
	var list []string
	for _, a := range addresses {
		list = append(list, a.String())
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// count takes note that a thread listens on an address once more, or once less.
func count(listening map[node.From]map[node.Address]int, from node.From, a node.Address, by int) {
	at := listening[from]
	if at == nil {
		at = map[node.Address]int{}
		listening[from] = at
	}
	if at[a] += by; at[a] <= 0 {
		delete(at, a)
	}
	if len(at) == 0 {
		delete(listening, from)
	}
}

// watchVacancy sees to it that connections do not wait in vain. The caller holds
// the mutex.
func (h *holding) watchVacancy() {
	vacant := len(h.listening) == 0 && len(h.sockets.Addresses()) > 0
	switch {
	case !vacant:
		h.refusing = false
		if h.vacant != nil {
			h.vacant.Stop()
			h.vacant = nil
		}
	case h.refusing, h.unheard:
	case h.ending:
		h.refuse()
	case h.vacant == nil:
		if len(h.alive) <= 1 { // who else runs may be one who can't be heard
			h.sockets.Vacate()
		}
		h.vacant = time.AfterFunc(h.running.holdTimeout, h.vacancyElapsed)
	}
}

// vacancyElapsed: nobody has listened for too long.
func (h *holding) vacancyElapsed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vacant == nil || len(h.listening) > 0 || h.refusing {
		return
	}
	h.vacant = nil
	if h.sockets.Occupied() {
		h.unheard = true
		for main := range h.alive {
			go h.believe(main)
		}
		h.running.note(fmt.Sprintf("the app listens on %s, and can't be heard: evermore does not know when it does not any more", join(h.sockets.Addresses())))
		return
	}
	h.refuse()
	elsewhere := ""
	if at := slices.Collect(maps.Keys(h.unheld)); len(at) > 0 {
		elsewhere = " (it listens on " + join(h.of(at[0].Main, h.unheld)) + ")"
	}
	h.running.note(fmt.Sprintf("nobody has listened on %s for %s: connections are refused until the app does%s",
		join(h.sockets.Addresses()), h.running.holdTimeout, elsewhere))
}

func (h *holding) refuse() {
	h.refusing = true
	h.sockets.Refuse()
}
