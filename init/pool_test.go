package pid1

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"evermore/reaper"
	"evermore/signals"
)

// troupe is a Pool among processes and signals that a test plays.
type troupe struct {
	t    *testing.T
	pool *Pool

	mu       sync.Mutex
	log      []string
	living   map[int]*player
	dead     []reaper.Exit
	nextPID  int
	failures []error // of the next starts
	left     int64   // of the memory; 0: there is no limit
	kills    uint64
	started  []reaper.Command
	drains   bool

	signals  chan signals.Received
	children chan struct{}
	code     int
	done     chan struct{}
}

type player struct {
	troupe *troupe
	pid    int
}

func (p *player) PID() int     { return p.pid }
func (p *player) PIDFD() int   { return -1 }
func (p *player) Halted() bool { return false }
func (p *player) Signal(s syscall.Signal) error {
	p.troupe.note("%s to %d", signals.Name(s), p.pid)
	return nil
}
func (p *player) SignalGroup(s syscall.Signal) error { return p.Signal(s) }

func (tr *troupe) note(format string, args ...any) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.log = append(tr.log, fmt.Sprintf(format, args...))
}

func (tr *troupe) Start(c reaper.Command) (Process, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.failures) > 0 {
		err := tr.failures[0]
		tr.failures = tr.failures[1:]
		return nil, err
	}
	tr.nextPID++
	p := &player{tr, tr.nextPID}
	tr.living[p.pid] = p
	tr.started = append(tr.started, c)
	return p, nil
}

func (tr *troupe) Reap() reaper.Reaped {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	r := reaper.Reaped{Exits: tr.dead}
	tr.dead = nil
	return r
}

func (tr *troupe) Headroom() (left, limit int64, ok bool) { return tr.left, 512 << 20, tr.left > 0 }
func (tr *troupe) Memory(Process) (int64, bool)           { return 100 << 20, true }
func (tr *troupe) Leftovers(Process) []Leftover           { return nil }
func (tr *troupe) Zombies() []reaper.Zombie               { return nil }
func (tr *troupe) OOMKills() (uint64, bool) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.kills, true
}
func (tr *troupe) Usage(*Usage) Usage                               { return Usage{} }
func (tr *troupe) Sacrifice(Process)                                {}
func (tr *troupe) Gone() <-chan struct{}                            { return nil }
func (tr *troupe) Adopt(reaper.Adoption) (Process, error)           { return nil, errors.New("nothing to adopt") }
func (tr *troupe) Signals() <-chan signals.Received                 { return tr.signals }
func (tr *troupe) Children() <-chan struct{}                        { return tr.children }
func (tr *troupe) SetTarget(int) error                              { return nil }
func (tr *troupe) JustForwarded(syscall.Signal) bool                { return false }
func (tr *troupe) Hand(_ *reaper.Command, start func() error) error { return start() }
func (tr *troupe) Stopping(pid int)                                 { tr.note("stop follows for %d", pid) }
func (tr *troupe) Ping(int) time.Duration                           { return 0 }
func (tr *troupe) Forgive(int)                                      {}
func (tr *troupe) Stack(context.Context, int) (string, error)       { return "", errors.New("no stack") }

func (tr *troupe) Drain(pid int, last bool) bool {
	if tr.drains {
		tr.note("%d drains, last: %v", pid, last)
	}
	return tr.drains
}

// Observe notes what the pool is about.
func (tr *troupe) Observe(e Event) {
	switch e.Kind {
	case Started:
		tr.note("%d: %d started", e.Worker, e.PID)
	case Ready:
		tr.note("%d: %d ready", e.Worker, e.PID)
	case Exited:
		tr.note("%d: %d ended, %s", e.Worker, e.PID, e.Reason)
	case Restarting:
		tr.note("%d: restart %d", e.Worker, e.Restarts)
	case Replaced:
		tr.note("%d: replaced by %d, restart %d", e.Worker, e.PID, e.Restarts)
	case Reloaded:
		tr.note("reload %s: %v", e.Result, e.Err)
	case GaveUp:
		tr.note("%d: gave up", e.Worker)
	case Noted:
		tr.note("%s", e.Text)
	case OOMKilled:
		tr.note("%d killed for want of memory", e.Count)
	case Stopped:
		tr.note("over: %d, %s", e.Code, e.Reason)
	case Warned:
		tr.note("warning: %v", e.Err)
	}
}

// perform runs a story in a bubble; its last act must be the end.
func perform(t *testing.T, o PoolOptions, story func(*troupe)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		tr := &troupe{
			t: t, living: map[int]*player{}, nextPID: 100,
			signals: make(chan signals.Received), children: make(chan struct{}, 1), done: make(chan struct{}),
		}
		o.Command.Argv = []string{"node"}
		if o.ReadyTimeout == 0 {
			o.ReadyTimeout = 30 * s
		}
		o.Link = tr
		o.ReloadAsked = func(text string) { _ = tr.pool.Reload(t.Context(), text) }
		tr.pool = NewPool(o, tr, tr, tr)
		if _, err := tr.pool.Start(); err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(tr.done)
			tr.code = tr.pool.Run()
		}()
		synctest.Wait()
		story(tr)
		synctest.Wait()
		select {
		case <-tr.done:
		default:
			t.Errorf("the pool has not ended\n%s", strings.Join(tr.log, "\n"))
			go func() { _ = tr.pool.Stop(context.Background(), syscall.SIGKILL) }()
			for len(tr.living) > 0 {
				synctest.Wait()
				for pid := range tr.living {
					tr.die(pid, 137)
				}
			}
			<-tr.done
		}
	})
}

// die lets a process end: by a code, or 128+n by signal n.
func (tr *troupe) die(pid, status int) {
	tr.mu.Lock()
	e := reaper.Exit{PID: pid, Code: status, At: time.Now()}
	if status > 128 {
		e.Code, e.Signal = 0, syscall.Signal(status-128)
	}
	if tr.living[pid] == nil {
		tr.t.Errorf("there is no process %d", pid)
	}
	delete(tr.living, pid)
	tr.dead = append(tr.dead, e)
	tr.mu.Unlock()
	tr.children <- struct{}{}
	synctest.Wait()
}

func (tr *troupe) listens(pids ...int) {
	for _, pid := range pids {
		tr.pool.Tell(Told{PID: pid, What: Listens})
		synctest.Wait()
	}
}

func (tr *troupe) signal(s syscall.Signal) {
	tr.signals <- signals.Received{Signal: s, PID: 4242}
	synctest.Wait()
}

func (tr *troupe) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// ask makes a request that goes on in the background.
func (tr *troupe) ask(request func(context.Context) error) chan error {
	answer := make(chan error, 1)
	go func() { answer <- request(context.Background()) }()
	synctest.Wait()
	return answer
}

func (tr *troupe) reload() chan error {
	return tr.ask(func(ctx context.Context) error { return tr.pool.Reload(ctx, "it was asked to") })
}

func (tr *troupe) answered(answer chan error, want string) {
	tr.t.Helper()
	select {
	case err := <-answer:
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			tr.t.Errorf("answered %v, want %q", err, want)
		}
	default:
		tr.t.Errorf("not answered, want %q", want)
	}
}

func (tr *troupe) told(want ...string) {
	tr.t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if !slices.Equal(tr.log, want) {
		tr.t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(tr.log, "\n\t"), strings.Join(want, "\n\t"))
	}
	tr.log = nil
}

// toldInAnyOrder is told, of what several workers do at the same time.
func (tr *troupe) toldInAnyOrder(want ...string) {
	tr.t.Helper()
	tr.mu.Lock()
	slices.Sort(tr.log)
	tr.mu.Unlock()
	slices.Sort(want)
	tr.told(want...)
}

func (tr *troupe) forget() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.log = nil
}

func (tr *troupe) ended(code int) {
	tr.t.Helper()
	synctest.Wait()
	select {
	case <-tr.done:
		if tr.code != code {
			tr.t.Errorf("ended with %d, want %d", tr.code, code)
		}
	default:
		tr.t.Error("has not ended")
	}
}

// several are n processes that are ready when they listen.
func several(n int) PoolOptions {
	o := container()
	o.Ready.By = ReadyListening
	return PoolOptions{Options: o, Instances: n, Overlap: func() error { return nil }}
}

func TestPoolKeepsEachAlive(t *testing.T) {
	perform(t, several(2), func(tr *troupe) {
		tr.listens(101, 102)
		tr.after(20 * s)
		tr.die(102, 1)
		tr.after(s)
		tr.told("0: 101 started", "1: 102 started", "0: 101 ready", "1: 102 ready", "1: 102 ended, exit", "1: restart 1", "1: 103 started")
		if ok, why := tr.pool.CheckReady(context.Background()); !ok {
			t.Errorf("not ready: %s", why)
		}
		if s := tr.pool.Snapshot(); s.Restarts != 1 || s.Starts != 3 || !s.Ready || s.PID != 101 {
			t.Errorf("the snapshot is %+v", s)
		}
		tr.signal(syscall.SIGTERM)
		tr.die(103, 0)
		tr.die(101, 143)
		tr.toldInAnyOrder("SIGTERM to 101", "SIGTERM to 103", "1: 103 ended, request", "0: 101 ended, request", "over: 143, request")
		tr.ended(143)
	})
}

// The others serve on when one gives up; what is asked for next starts it again.
func TestPoolGoesOnWhenOneGivesUp(t *testing.T) {
	for name, c := range map[string]struct {
		overlap bool
		again   func(*troupe) chan error
	}{
		"reload":            {true, (*troupe).reload},
		"reload by restart": {false, (*troupe).reload},
		"restart": {true, func(tr *troupe) chan error {
			return tr.ask(func(ctx context.Context) error { return tr.pool.Restart(ctx, ReasonRequest, "") })
		}},
		"scale": {true, func(tr *troupe) chan error {
			return tr.ask(func(ctx context.Context) error { return tr.pool.Scale(ctx, 2) })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			o := several(2)
			o.Policy.MaxRestarts = Rate{1, time.Hour}
			if !c.overlap {
				o.Overlap = nil
			}
			perform(t, o, func(tr *troupe) {
				tr.listens(101, 102)
				tr.after(20 * s)
				tr.die(102, 3)
				tr.after(s)
				tr.forget()
				tr.die(103, 3)
				tr.told("1: 103 ended, exit", "1: gave up", "worker 1 is given up, and 1 serve on: restart, reload and scale start it again")
				if ok, why := tr.pool.CheckReady(context.Background()); !ok {
					t.Errorf("not ready: %s", why)
				}
				list := tr.pool.Snapshots()
				if sum := tr.pool.Snapshot(); len(list) != 2 || list[1].State != StateStopped || sum.Starts != 3 || !sum.Ready || sum.PID != 101 {
					t.Errorf("there are %+v, of all %+v", list, sum)
				}
				tr.signal(syscall.SIGUSR2)
				answer := c.again(tr)
				for range 10 { // whoever is there listens, and ends when it is told to
					for _, pid := range tr.pids() {
						if tr.toldToEnd(pid) {
							tr.die(pid, 143)
						} else {
							tr.listens(pid)
						}
					}
				}
				tr.answered(answer, "")
				list = tr.pool.Snapshots()
				if len(list) != 2 || !list[0].Ready || !list[1].Ready || list[0].Worker != 0 || list[1].Worker != 1 || len(tr.pids()) != 2 {
					t.Errorf("there are %+v", list)
				}
				tr.stopAll()
			})
		})
	}
	// A stop is a stop, whoever has given up before.
	o := several(2)
	o.Policy.MaxRestarts = Rate{1, time.Hour}
	perform(t, o, func(tr *troupe) {
		tr.listens(101, 102)
		tr.die(102, 3)
		tr.after(s)
		tr.die(103, 3)
		tr.signal(syscall.SIGTERM)
		tr.forget()
		tr.die(101, 0)
		tr.told("0: 101 ended, request", "over: 0, request")
		tr.ended(0)
	})
}

func TestPoolEndsWhenAllGiveUp(t *testing.T) {
	o := several(2)
	o.Policy.MaxRestarts = Rate{1, time.Hour}
	perform(t, o, func(tr *troupe) {
		tr.die(101, 3)
		tr.after(s)
		tr.die(103, 3)
		tr.die(102, 4)
		tr.after(s)
		tr.forget()
		tr.die(104, 4)
		tr.told("1: 104 ended, exit", "1: gave up", "over: 4, exit")
		tr.ended(4)
		// Who asks at the end hears of all of it.
		if s := tr.pool.Snapshot(); s.Starts != 4 || s.Restarts != 2 || s.LastPID != 104 || s.LastExit.Code != 4 || s.State != StateStopped || s.Ready {
			t.Errorf("the snapshot is %+v", s)
		}
	})
}

func TestPoolOfFinishedJobs(t *testing.T) {
	perform(t, several(2), func(tr *troupe) {
		tr.die(102, 0)
		tr.after(time.Minute)
		tr.die(101, 0)
		tr.ended(0)
	})
}

func TestReload(t *testing.T) {
	perform(t, several(2), func(tr *troupe) {
		tr.listens(101, 102)
		tr.after(20 * s)
		tr.forget()
		answer := tr.reload()
		tr.told("0: 103 started")
		tr.listens(103)
		tr.told("0: 103 ready", "0: replaced by 103, restart 1", "SIGTERM to 101")
		tr.die(101, 1) // no crash, whatever its code
		tr.told("0: 101 ended, reload", "1: 104 started")
		tr.listens(104)
		tr.die(102, 143)
		tr.told("1: 104 ready", "1: replaced by 104, restart 1", "SIGTERM to 102", "1: 102 ended, reload", "reload ok: <nil>")
		tr.answered(answer, "")
		for i, s := range tr.pool.Snapshots() {
			if s.Worker != i || s.PID != 103+i || s.Restarts != 1 || s.Starts != 2 || s.RestartsRemaining != 5 {
				t.Errorf("worker %d is %+v", i, s)
			}
		}
		// What was replaced is restarted as ever.
		tr.die(103, 1)
		tr.after(s)
		tr.told("0: 103 ended, exit", "0: restart 2", "0: 105 started")
		tr.stopAll()
	})
}

// stopAll ends what runs by TERM.
func (tr *troupe) stopAll() {
	tr.signal(syscall.SIGTERM)
	for pid := range tr.living {
		tr.die(pid, 143)
	}
	tr.ended(143)
	tr.forget()
}

func TestReloadIsRolledBack(t *testing.T) {
	noRoom := &reaper.StartError{Name: "node", What: "start a process for", Err: syscall.EAGAIN}
	for name, c := range map[string]struct {
		act    func(*troupe)
		answer string
		told   []string
	}{
		"it throws": {
			func(tr *troupe) { tr.die(103, 1) },
			"the new process ended before it was ready: code 1",
			[]string{"0: 103 started", "0: 103 ended, exit", "reload rolled_back: the new process ended before it was ready: code 1"},
		},
		"it never listens": {
			func(tr *troupe) {
				tr.after(30 * s)
				tr.die(103, 143)
			},
			"the new process is not ready after 30s: it does not listen yet",
			[]string{
				"0: 103 started", "SIGTERM to 103", "0: 103 ended, reload",
				"reload rolled_back: the new process is not ready after 30s: it does not listen yet",
			},
		},
		"it listens elsewhere and hangs when it is to end": {
			func(tr *troupe) {
				tr.pool.Tell(Told{PID: 103, What: NotListening, Text: "it listens on 4000"})
				tr.after(30 * s)
				tr.after(8 * s)
				tr.die(103, 137)
			},
			"it listens on 4000",
			[]string{
				"0: 103 started", "SIGTERM to 103", "SIGKILL to 103", "SIGKILL to 103", "0: 103 ended, reload",
				"reload rolled_back: the new process is not ready after 30s: it listens on 4000",
			},
		},
		"there is no process to have": {
			nil, "cannot start a process",
			[]string{"reload rolled_back: " + noRoom.Error()},
		},
		"there is no memory": {
			nil, "no room for a second process: this one uses 100 MB, and 99 of the container's 512 MB are left",
			[]string{"reload refused: there is no room for a second process: this one uses 100 MB, and 99 of the container's 512 MB are left: raise the limit, or use --reload-mode restart"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			perform(t, several(2), func(tr *troupe) {
				tr.listens(101, 102)
				tr.after(time.Minute)
				tr.forget()
				switch name {
				case "there is no process to have":
					tr.failures = []error{noRoom}
				case "there is no memory":
					tr.left = 99 << 20
				}
				answer := tr.reload()
				if c.act != nil {
					c.act(tr)
				}
				tr.answered(answer, c.answer)
				tr.told(c.told...)
				if s := tr.pool.Snapshots(); len(s) != 2 || s[0].PID != 101 || !s[0].Ready || s[0].Restarts != 0 || s[1].PID != 102 {
					t.Errorf("what serves is %+v", s)
				}
				tr.left = 0
				answer = tr.reload() // the next one is tried as if nothing had been
				tr.listens(tr.nextPID)
				tr.die(101, 143)
				tr.listens(tr.nextPID)
				tr.die(102, 143)
				tr.answered(answer, "")
				tr.stopAll()
			})
		})
	}
}

// The new process dies in the moment in which it becomes ready.
func TestReloadDeathOfTheReady(t *testing.T) {
	perform(t, several(1), func(tr *troupe) {
		tr.listens(101)
		tr.after(time.Minute)
		tr.forget()
		answer := tr.reload()
		w := tr.pool.reload.candidate
		tr.mu.Lock()
		tr.dead = append(tr.dead, reaper.Exit{PID: 102, Code: 1, At: time.Now()})
		delete(tr.living, 102)
		tr.mu.Unlock()
		go tr.pool.Tell(Told{PID: 102, What: Listens})
		tr.children <- struct{}{}
		synctest.Wait()
		if tr.pool.serving()[0] != w {
			tr.answered(answer, "ended before it was ready")
		} else { // it is started anew, and the other one ends
			tr.after(s)
			tr.die(101, 143)
			tr.answered(answer, "")
		}
		tr.stopAll()
	})
}

func TestReloadWhileAnotherRuns(t *testing.T) {
	perform(t, several(1), func(tr *troupe) {
		tr.listens(101)
		first, second, third := tr.reload(), tr.reload(), tr.reload()
		tr.listens(102)
		tr.die(101, 143)
		tr.answered(first, "")
		tr.listens(103)
		tr.die(102, 143)
		tr.answered(second, "")
		tr.answered(third, "")
		if len(tr.living) != 1 {
			t.Errorf("%d processes are left", len(tr.living))
		}
		tr.stopAll()
	})
}

func TestStopInAReload(t *testing.T) {
	for name, c := range map[string]func(*troupe){
		"while the new one starts": func(tr *troupe) {},
		"while the old one ends":   func(tr *troupe) { tr.listens(103) },
	} {
		t.Run(name, func(t *testing.T) {
			perform(t, several(2), func(tr *troupe) {
				tr.listens(101, 102)
				answer := tr.reload()
				c(tr)
				tr.signal(syscall.SIGTERM)
				for _, pid := range []int{101, 102, 103} {
					tr.die(pid, 143)
				}
				tr.answered(answer, ErrEnding.Error())
				tr.ended(143)
			})
		})
	}
}

// The process that is to be replaced dies first: it is started anew, and replaced
// all the same.
func TestReloadOfTheDead(t *testing.T) {
	perform(t, several(1), func(tr *troupe) {
		tr.listens(101)
		tr.after(time.Minute)
		answer := tr.reload()
		tr.die(101, 1)
		tr.after(s)
		tr.forget()
		tr.listens(102)
		tr.told("0: 102 ready", "0: replaced by 102, restart 2", "SIGTERM to 103")
		tr.die(103, 143)
		tr.answered(answer, "")
		tr.stopAll()
	})
}

// The process that is to be replaced is over before the new one is ready, which
// takes its place all the same.
func TestReloadOfTheFinished(t *testing.T) {
	perform(t, several(1), func(tr *troupe) {
		tr.listens(101)
		tr.after(time.Minute)
		answer := tr.reload()
		tr.die(101, 0)
		tr.listens(102)
		tr.answered(answer, "")
		again := tr.reload()
		tr.listens(103)
		tr.die(102, 143)
		tr.answered(again, "")
		tr.stopAll()
	})
}

// A restart during a reload ends with the process that the reload has brought.
func TestRestartInAReload(t *testing.T) {
	restart := func(tr *troupe) chan error {
		return tr.ask(func(ctx context.Context) error { return tr.pool.Restart(ctx, ReasonRequest, "") })
	}
	perform(t, several(1), func(tr *troupe) {
		tr.listens(101)
		reload := tr.reload()
		restarted := restart(tr)
		tr.listens(102)
		tr.answered(restarted, "")
		tr.die(101, 143)
		tr.answered(reload, "")
		restarted = restart(tr)
		tr.signal(syscall.SIGTERM)
		tr.answered(restarted, ErrEnding.Error())
		tr.die(102, 143)
		tr.ended(143)
	})
}

func TestReloadByRestart(t *testing.T) {
	o := several(2)
	o.Overlap = nil
	perform(t, o, func(tr *troupe) {
		tr.listens(101, 102)
		tr.after(time.Minute)
		tr.forget()
		answer := tr.reload()
		tr.told("SIGTERM to 101")
		tr.die(101, 143)
		tr.told("0: 101 ended, reload", "0: restart 1", "0: 103 started")
		tr.listens(103) // the next one waits for it
		tr.told("0: 103 ready", "SIGTERM to 102")
		tr.die(102, 143)
		tr.after(30 * s)
		tr.answered(answer, "the new process is not ready after 30s")
		tr.stopAll()
	})
}

func TestReloadDrains(t *testing.T) {
	perform(t, several(1), func(tr *troupe) {
		tr.drains = true
		tr.listens(101)
		tr.after(time.Minute)
		tr.forget()
		answer := tr.reload()
		tr.listens(102)
		tr.told("0: 102 started", "0: 102 ready", "0: replaced by 102, restart 1", "101 drains, last: false")
		tr.pool.Tell(Told{PID: 101, What: Finished})
		synctest.Wait()
		tr.told("stop follows for 101", "SIGTERM to 101")
		tr.die(101, 0)
		tr.answered(answer, "")
		tr.forget()
		tr.signal(syscall.SIGTERM)
		tr.told("102 drains, last: true")
		tr.after(4 * s) // half of the kill time-out
		tr.told("stop follows for 102", "SIGTERM to 102")
		tr.after(4 * s)
		tr.told("SIGKILL to 102", "SIGKILL to 102")
		tr.die(102, 137)
		tr.ended(137)
	})
}

func TestScale(t *testing.T) {
	perform(t, several(2), func(tr *troupe) {
		tr.listens(101, 102)
		tr.forget()
		scale := func(n int) chan error {
			return tr.ask(func(ctx context.Context) error { return tr.pool.Scale(ctx, n) })
		}
		tr.answered(scale(0), "one process at least")
		tr.answered(scale(4), "")
		tr.told("2: 103 started", "3: 104 started")
		tr.answered(scale(1), "")
		tr.die(104, 143)
		tr.die(103, 143)
		tr.die(102, 143)
		tr.toldInAnyOrder("SIGTERM to 104", "SIGTERM to 103", "SIGTERM to 102", "3: 104 ended, request", "2: 103 ended, request", "1: 102 ended, request")
		if n := len(tr.pool.Snapshots()); n != 1 {
			t.Errorf("%d workers are left", n)
		}
		answer := tr.reload()
		tr.answered(scale(2), "a reload is under way")
		grown := tr.ask(func(ctx context.Context) error { return tr.pool.Grow(ctx, 2) })
		next := tr.reload()
		tr.forget()
		tr.listens(105)
		tr.die(101, 143)
		tr.answered(answer, "")
		tr.answered(grown, "")
		tr.told("0: 105 ready", "0: replaced by 105, restart 1", "SIGTERM to 101", "0: 101 ended, reload", "reload ok: <nil>", "1: 106 started", "0: 107 started")
		tr.listens(106, 107)
		tr.die(105, 143)
		tr.listens(108)
		tr.die(106, 143)
		tr.answered(next, "")

		// What can't be executed is no end of those who run.
		tr.failures = []error{&reaper.StartError{Name: "node", What: "execute", Err: syscall.ENOENT, Exec: true}}
		tr.answered(scale(4), "cannot execute")
		if list := tr.pool.Snapshots(); len(list) != 2 {
			t.Errorf("there are %+v", list)
		}
		tr.answered(scale(3), "")
		tr.listens(109)

		// Who waits for the end of a reload does not wait beyond that of all.
		answer = tr.reload()
		grown = tr.ask(func(ctx context.Context) error { return tr.pool.Grow(ctx, 4) })
		tr.stopAll()
		tr.answered(grown, ErrEnding.Error())
		tr.answered(answer, ErrEnding.Error())
	})
}

// Where one ends the other before, the new process may end for good before it is ready.
func TestReloadByRestartOfTheFinished(t *testing.T) {
	o := several(1)
	o.Overlap = nil
	o.Policy.When = OnFailure
	perform(t, o, func(tr *troupe) {
		tr.listens(101)
		answer := tr.reload()
		tr.die(101, 143)
		tr.die(102, 0)
		tr.answered(answer, "the new process ended before it was ready: code 0")
		tr.ended(0)
	})
}

// The first INT in the midst of a reload begins the stop, as TERM does; another one
// kills.
func TestInterruptInAReload(t *testing.T) {
	perform(t, several(1), func(tr *troupe) {
		tr.listens(101)
		tr.reload()
		tr.listens(102)
		tr.after(s)
		tr.forget()
		tr.signal(syscall.SIGINT)
		tr.told("SIGINT to 102")
		tr.after(s)
		tr.forget()
		tr.signal(syscall.SIGINT)
		tr.toldInAnyOrder("SIGKILL to 101", "SIGKILL to 101", "SIGKILL to 102", "SIGKILL to 102")
		tr.die(101, 137)
		tr.die(102, 137)
		tr.ended(137)
	})
	perform(t, several(1), func(tr *troupe) {
		tr.listens(101)
		tr.signal(syscall.SIGTERM)
		tr.forget()
		tr.signal(syscall.SIGINT)
		tr.told("SIGKILL to 101", "SIGKILL to 101")
		tr.die(101, 137)
		tr.ended(137)
	})
}

func TestAlone(t *testing.T) {
	perform(t, several(3), func(tr *troupe) {
		tr.listens(101, 102, 103)
		answer := tr.ask(func(ctx context.Context) error { return tr.pool.Alone(ctx, 0) })
		tr.die(103, 143)
		select {
		case err := <-answer:
			t.Errorf("102 lives, and it is said: %v", err)
		default:
		}
		tr.die(102, 143)
		tr.answered(answer, "")
		if list := tr.pool.Snapshots(); len(list) != 1 || list[0].PID != 101 {
			t.Errorf("there are %+v", list)
		}
		tr.answered(tr.ask(func(ctx context.Context) error { return tr.pool.Scale(ctx, 2) }), "")
		answer = tr.ask(func(ctx context.Context) error { return tr.pool.Alone(ctx, 104) })
		tr.die(101, 143)
		tr.answered(answer, "")
		if list := tr.pool.Snapshots(); len(list) != 1 || list[0].PID != 104 {
			t.Errorf("there are %+v", list)
		}
		tr.stopAll()
	})
}

func TestPoolBefore(t *testing.T) {
	o := several(2)
	o.Before = []string{"migrate"}
	perform(t, o, func(tr *troupe) {
		tr.answered(tr.reload(), "--before runs")
		tr.die(101, 0)
		tr.told("0: 102 started", "1: 103 started")
		tr.stopAll()
	})
}

// A kill for want of memory is counted once, and put down to who was killed.
func TestPoolOutOfMemory(t *testing.T) {
	perform(t, several(2), func(tr *troupe) {
		tr.after(20 * s)
		tr.forget()
		tr.mu.Lock()
		tr.kills = 2
		tr.mu.Unlock()
		if err := tr.pool.Ping(context.Background()); err != nil { // a probe sees it first
			t.Fatal(err)
		}
		tr.die(102, 137)
		tr.die(101, 137)
		tr.after(20 * s)
		tr.die(103, 137) // somebody else
		tr.told("2 killed for want of memory", "1: 102 ended, oom", "1: restart 1", "1: 103 started",
			"0: 101 ended, oom", "0: restart 1", "0: 104 started", "1: 103 ended, signal", "1: restart 2", "1: 105 started")
		tr.stopAll()
	})
}

func TestReloadSignal(t *testing.T) {
	o := several(1)
	o.ReloadSignal = syscall.SIGHUP
	perform(t, o, func(tr *troupe) {
		tr.listens(101)
		tr.forget()
		tr.signal(syscall.SIGHUP)
		tr.told("0: 102 started")
		tr.die(102, 1)
		tr.forget()
		tr.signal(syscall.SIGUSR2)
		tr.told("SIGUSR2 to 101")
		tr.stopAll()
	})
}

// Whatever happens in whatever order: everybody who asks is answered, each worker has
// one process in the end, nothing else lives, and a stop ends it all.
func TestPoolInAnyOrder(t *testing.T) {
	for seed := range uint64(200) {
		o := several(1 + int(seed%3))
		o.Policy = Policy{When: Always, MinUptime: s, SpinSleepTime: 100 * ms}
		o.ReloadSignal = syscall.SIGHUP
		if seed%4 == 3 {
			o.Overlap = nil
		}
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			perform(t, o, func(tr *troupe) { tr.disorder(rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func (tr *troupe) disorder(r *rand.Rand) {
	tr.drains = r.IntN(2) == 0
	var answers []chan error
	ask := func(request func(context.Context) error) { answers = append(answers, tr.ask(request)) }
	one := func() int {
		pids := tr.pids()
		if len(pids) == 0 {
			return 0
		}
		return pids[r.IntN(len(pids))]
	}
	for range 60 {
		switch pid := one(); r.IntN(11) {
		case 0, 1:
			if pid != 0 {
				tr.die(pid, []int{0, 1, 137, 143}[r.IntN(4)])
			}
		case 2, 3, 4:
			tr.listens(pid)
		case 5:
			tr.pool.Tell(Told{PID: pid, What: []Telling{NotListening, Finished, SaidReady}[r.IntN(3)], Text: "it does not"})
		case 6:
			ask(func(ctx context.Context) error { return tr.pool.Reload(ctx, "it was asked to") })
		case 7:
			ask(func(ctx context.Context) error { return tr.pool.Restart(ctx, ReasonRequest, "") })
		case 8:
			n := 1 + r.IntN(4)
			ask(func(ctx context.Context) error { return tr.pool.Scale(ctx, n) })
		case 9:
			if tr.signal(syscall.SIGHUP); r.IntN(3) == 0 {
				tr.mu.Lock()
				tr.failures = append(tr.failures, &reaper.StartError{Name: "node", What: "start a process for", Err: syscall.EAGAIN})
				tr.mu.Unlock()
			}
		default:
			tr.after(time.Duration(r.IntN(4000)) * ms)
		}
	}
	for range 120 { // all is well from now on
		for _, pid := range tr.pids() {
			if tr.toldToEnd(pid) {
				tr.die(pid, 143)
			} else {
				tr.listens(pid)
			}
		}
		tr.after(s)
	}
	for _, answer := range answers {
		select {
		case err := <-answer:
			if errors.Is(err, ErrEnding) {
				tr.t.Errorf("somebody was told that %v", err)
			}
		default:
			tr.t.Error("somebody was not answered")
		}
	}
	var pids []int
	for _, snap := range tr.pool.Snapshots() {
		if pids = append(pids, snap.PID); !snap.Ready {
			tr.t.Errorf("worker %d is %s and not ready: %s", snap.Worker, snap.State, snap.NotReady)
		}
	}
	slices.Sort(pids)
	if living := tr.pids(); !slices.Equal(pids, living) {
		tr.t.Errorf("the workers have %v, and %v live", pids, living)
	}
	tr.signal(syscall.SIGTERM)
	tr.after(10 * s)
	for _, pid := range tr.pids() {
		tr.die(pid, 137)
	}
}

// pids are those of the living.
func (tr *troupe) pids() []int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Sorted(maps.Keys(tr.living))
}

// toldToEnd says whether a process was sent what ends it.
func (tr *troupe) toldToEnd(pid int) bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Contains(tr.log, fmt.Sprintf("SIGTERM to %d", pid)) || slices.Contains(tr.log, fmt.Sprintf("SIGKILL to %d", pid))
}
