package pid1

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"evermore/cgroup"
	"evermore/reaper"
	"evermore/signals"
)

// stage is an App among processes and signals that a test plays, in a bubble of
// synctest: its time stands still while anything can happen.
type stage struct {
	t     *testing.T
	app   *App
	began time.Time

	mu       sync.Mutex // a timer orders nothing for the race detector
	log      []string   // what was sent and what happened, with its second
	zombies  []reaper.Zombie
	oomKills atomic.Uint64
	memory   atomic.Int64
	headroom atomic.Int64

	usage      Usage
	sacrificed []int
	death      Death // the last

	looks int // how often zombies were looked for

	signals  chan signals.Received
	children chan struct{}
	nextPID  int
	running  *actor
	dead     []reaper.Exit
	orphans  []reaper.Exit
	failures []error // of the next starts
	left     []*remnant
	just     map[syscall.Signal]bool
	halted   atomic.Bool
	killErr  error
	commands []reaper.Command

	code int
	err  error
	done chan struct{}
}

type actor struct {
	stage *stage
	pid   int
}

func (p *actor) PID() int     { return p.pid }
func (p *actor) PIDFD() int   { return -1 }
func (p *actor) Halted() bool { return p.stage.halted.Load() }
func (p *actor) Signal(s syscall.Signal) error {
	p.stage.note("%s to %d", signals.Name(s), p.pid)
	return p.stage.killErr
}

func (p *actor) SignalGroup(s syscall.Signal) error {
	p.stage.note("%s to group %d", signals.Name(s), p.pid)
	return p.stage.killErr
}

type remnant struct {
	stage *stage
	dead  bool
}

func (r *remnant) Alive() bool    { return !r.dead }
func (r *remnant) String() string { return "chrome (77)" }
func (r *remnant) Signal(s syscall.Signal) error {
	r.stage.note("%s to leftover", signals.Name(s))
	return nil
}

func (st *stage) Start(c reaper.Command) (Process, error) {
	if len(st.failures) > 0 {
		err := st.failures[0]
		st.failures = st.failures[1:]
		return nil, err
	}
	st.commands = append(st.commands, c)
	st.nextPID++
	st.running = &actor{st, st.nextPID}
	return st.running, nil
}

func (st *stage) Reap() reaper.Reaped {
	r := reaper.Reaped{Exits: st.dead, Orphans: st.orphans}
	st.dead, st.orphans = nil, nil
	return r
}

func (st *stage) Leftovers(Process) []Leftover {
	var l []Leftover
	for _, r := range st.left {
		if !r.dead {
			l = append(l, r)
		}
	}
	return l
}

func (st *stage) Zombies() []reaper.Zombie {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.looks++
	return st.zombies
}

func (st *stage) OOMKills() (uint64, bool) { return st.oomKills.Load(), true }
func (st *stage) Usage(*Usage) Usage {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.usage
}

func (st *stage) uses(u Usage) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.usage = u
}

func (st *stage) Headroom() (left, limit int64, ok bool) {
	return st.headroom.Load(), 512 << 20, st.headroom.Load() > 0
}
func (st *stage) Sacrifice(p Process) { st.sacrificed = append(st.sacrificed, p.PID()) }

func (st *stage) Memory(Process) (int64, bool) { return st.memory.Load(), true }
func (st *stage) Gone() <-chan struct{}        { return nil }

func (st *stage) Adopt(a reaper.Adoption) (Process, error) {
	if a.PID == 0 {
		return nil, reaper.ErrGone
	}
	st.running = &actor{st, a.PID}
	return st.running, nil
}

func (st *stage) looked() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.looks
}

func (st *stage) neglect(z ...reaper.Zombie) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.zombies = z
}

func (st *stage) Signals() <-chan signals.Received { return st.signals }
func (st *stage) Children() <-chan struct{}        { return st.children }
func (st *stage) SetTarget(int) error              { return nil }
func (st *stage) JustForwarded(s syscall.Signal) (b bool) {
	b = st.just[s]
	delete(st.just, s)
	return b
}

func (st *stage) note(format string, args ...any) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.log = append(st.log, fmt.Sprintf("%v ", time.Since(st.began).Seconds())+fmt.Sprintf(format, args...))
}

func (st *stage) Observe(e Event) {
	switch e.Kind {
	case Preparing:
		st.note("preparing %d", e.PID)
	case Started:
		st.note("started %d", e.PID)
	case Ready:
		st.note("ready")
	case Unready:
		st.note("unready: %s", e.Text)
	case Exited:
		spinning := ""
		if e.Spinning {
			spinning = " spinning"
		}
		st.note("exited %s %s%s", e.Exit, e.Reason, spinning)
		st.death = *e.Death
	case SpawnFailed:
		st.note("spawn failed %d: %v", e.Exit.Code, e.Err)
	case BackingOff:
		st.note("backing off %s", e.Backoff)
	case Restarting:
		st.note("restarting %d %s", e.Restarts, e.Reason)
	case GaveUp:
		st.note("gave up %d: %s", e.Code, e.Text)
	case Stopping:
		switch {
		case e.Drain > 0:
			st.note("stopping after %s", e.Drain)
		case e.Text != "":
			st.note("stopping: %s", e.Text)
		default:
			st.note("stopping")
		}
	case Drained:
		st.note("drained")
	case Signalled:
		st.note("signal %s sent as %s", signals.Name(e.Signal), sentAs(e.SentAs))
	case Killed:
		st.note("killed")
	case LeftoversEnding:
		st.note("leftovers %s", e.Text)
	case LeftoversStuck:
		st.note("stuck %s", e.Text)
	case OrphanReaped:
		st.note("orphan %d", e.PID)
	case OOMKilled:
		st.note("out of memory: %d killed, of the app %d", e.Count, e.PID)
	case Noted:
		st.note("noted")
	case ZombieFound:
		st.note("zombie %d of %s (%d)", e.PID, e.Name, e.ParentPID)
	case StatusTold:
		st.note("status %s", e.Text)
	case Warned:
		st.note("warning: %v", e.Err)
	case Stopped:
		st.note("stopped %d", e.Code)
	}
}

func sentAs(s syscall.Signal) string {
	if s == 0 {
		return "nothing"
	}
	return signals.Name(s)
}

// play runs a story in a bubble. The story's last act must be the app's end.
func play(t *testing.T, o Options, story func(*stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t)
		st.begin(o)
		story(st)
		synctest.Wait()
		select {
		case <-st.done:
		default:
			t.Errorf("the app has not ended\n%s", strings.Join(st.log, "\n"))
			st.signal(syscall.SIGINT)
			st.signal(syscall.SIGINT)
			if st.app.Snapshot().State != StateStopped && st.running != nil {
				st.die(137)
			}
			<-st.done
		}
	})
}

func newStage(t *testing.T) *stage {
	return &stage{
		t: t, began: time.Now(), signals: make(chan signals.Received), children: make(chan struct{}), just: map[syscall.Signal]bool{},
		nextPID: 100, done: make(chan struct{}),
	}
}

func (st *stage) begin(o Options) {
	if o.Command.Argv == nil {
		o.Command.Argv = []string{"node"}
	}
	st.app = New(o, st, st, st)
	go func() {
		defer close(st.done)
		if st.code, st.err = st.app.Start(); st.err == nil {
			st.code = st.app.Run()
		}
	}()
	synctest.Wait()
}

// die lets the running process end: by a code, or 128+n by signal n.
func (st *stage) die(status int) {
	st.t.Helper()
	e := reaper.Exit{PID: st.running.pid, Code: status, At: time.Now()}
	if status > 128 {
		e.Code, e.Signal = 0, syscall.Signal(status-128)
	}
	st.dead = append(st.dead, e)
	st.sigchld()
}

func (st *stage) sigchld() {
	st.children <- struct{}{}
	synctest.Wait()
}

func (st *stage) signal(s syscall.Signal) {
	st.signals <- signals.Received{Signal: s, PID: 4242, UID: 1000}
	synctest.Wait()
}

// after lets the time pass.
func (st *stage) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// told compares the log with what is expected and clears it.
func (st *stage) told(want ...string) {
	st.t.Helper()
	st.mu.Lock()
	defer st.mu.Unlock()
	if !slices.Equal(st.log, want) {
		st.t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(st.log, "\n\t"), strings.Join(want, "\n\t"))
	}
	st.log = nil
}

// forget clears the log.
func (st *stage) forget() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.log = nil
}

func (st *stage) ended(code int) {
	st.t.Helper()
	synctest.Wait()
	select {
	case <-st.done:
		if st.code != code || st.err != nil {
			st.t.Errorf("ended with %d, %v; want %d", st.code, st.err, code)
		}
	default:
		st.t.Errorf("has not ended")
	}
}

var stopSet = signals.SetOf(syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)

// container are the defaults of the -- form, without jitter's reach: the pauses
// do not grow.
func container() Options {
	return Options{
		Policy:      Policy{When: OnFailure, MinUptime: 10 * s, SpinSleepTime: 100 * ms, MaxRestarts: Rate{5, 10 * time.Minute}},
		KillTimeout: 8 * s, KillTree: true, StopSignals: stopSet,
	}
}

func TestFinishedJobIsFinished(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.after(20 * s)
		st.die(0)
		st.told("0 started 101", "1 ready", "20 exited code 0 exit", "20 stopped 0")
		st.ended(0)
	})
}

func TestCrashIsRestarted(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.after(20 * s)
		st.die(8)
		st.after(20 * s)
		st.die(139)
		st.after(s)
		st.told("0 started 101", "1 ready", "20 exited code 8 exit", "20 restarting 1 exit", "20 started 102", "21 ready",
			"40 exited signal 11 signal", "40 restarting 2 signal", "40 started 103", "41 ready")
		if snap := st.app.Snapshot(); snap.Restarts != 2 || snap.Starts != 3 || snap.PID != 103 || !snap.Ready || snap.RestartsRemaining != 3 || snap.LastExit.Signal != 11 {
			t.Errorf("snapshot %+v", snap)
		}
		st.die(0)
		st.ended(0)
	})
}

func TestOutOfMemory(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.after(20 * s)
		st.die(1)
		st.after(20 * s)
		st.forget()
		st.die(137)
		st.after(20 * s)
		st.oomKills.Store(4)
		st.die(137)
		st.after(20 * s)
		st.oomKills.Store(5) // of a process below the app, which ends by itself
		st.die(1)
		st.told("40 exited signal 9 signal", "40 restarting 2 signal", "40 started 103", "41 ready",
			"60 out of memory: 4 killed, of the app 103", "60 exited signal 9 oom", "60 restarting 3 oom", "60 started 104", "61 ready",
			"80 out of memory: 1 killed, of the app 0", "80 exited code 1 exit", "80 restarting 4 exit", "80 started 105")
		st.die(0)
		if len(st.sacrificed) != 5 {
			t.Errorf("the kernel was told to take %d", st.sacrificed)
		}
	})
}

// A probe finds the counter risen before the app that was hit, or its shell, is
// seen to die.
func TestOutOfMemorySeenBefore(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.after(20 * s)
		st.oomKills.Store(1)
		_ = st.app.Ping(context.Background())
		st.after(s)
		st.dead = append(st.dead, reaper.Exit{PID: st.running.pid, Code: 137, At: time.Now()})
		st.sigchld()
		st.after(19 * s)
		st.told("0 started 101", "1 ready", "20 out of memory: 1 killed, of the app 0", "21 exited code 137 oom", "21 restarting 1 oom", "21 started 102", "22 ready")
		st.die(137) // by somebody else
		st.after(20 * s)
		st.oomKills.Store(2)
		_ = st.app.Ping(context.Background()) // of a process below the app
		st.after(20 * s)
		st.die(137)
		st.told("40 exited signal 9 signal", "40 restarting 2 signal", "40 started 103", "41 ready",
			"60 out of memory: 1 killed, of the app 0", "80 exited signal 9 signal", "80 restarting 3 signal", "80 started 104")
		st.die(0)
	})
}

func TestGroupThatIsKilledWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t)
		st.usage.KillsWhole = true
		st.begin(container())
		st.after(20 * s)
		st.die(1)
		st.after(20 * s)
		st.die(0)
		st.ended(0)
		st.told("0 started 101", "0 noted", "1 ready", "20 exited code 1 exit", "20 restarting 1 exit", "20 started 102", "21 ready",
			"40 exited code 0 exit", "40 stopped 0")
	})
}

func TestThrottlingOfARun(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.die(0)
		if st.death.Throttles {
			t.Errorf("nothing is known, and told are %+v", st.death)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t)
		st.usage = Usage{Memory: 5, MemoryLimit: 9, Throttles: true, Throttling: cgroup.Throttling{Periods: 10, Throttled: 5, Time: s}}
		st.begin(container())
		st.usage.Throttling = cgroup.Throttling{Periods: 30, Throttled: 6, Time: 3 * s}
		st.die(0)
		want := Usage{Memory: 5, MemoryLimit: 9, Throttles: true, Throttling: cgroup.Throttling{Periods: 20, Throttled: 1, Time: 2 * s}}
		if st.death.Usage != want {
			t.Errorf("got %+v, want %+v", st.death.Usage, want)
		}
	})
}

// Who ended a run: evermore tells what it knows, and no more.
func TestSenders(t *testing.T) {
	kubelet := Sender{By: ByOutside}
	person := Sender{By: ByProcess, PID: 4242, UID: 1000}
	own := Sender{By: ByEvermore}
	for _, c := range []struct {
		name  string
		story func(*stage)
		want  Sender
	}{
		{"a crash", func(st *stage) { st.die(1) }, Sender{}},
		{"a signal of somebody else", func(st *stage) { st.die(137) }, Sender{}},
		{"out of memory", func(st *stage) { st.oomKills.Store(1); st.die(137) }, Sender{By: ByKernel}},
		{"a forwarded signal", func(st *stage) { st.signal(syscall.SIGUSR1); st.die(138) }, person},
		{"a forwarded signal, a while ago", func(st *stage) { st.signal(syscall.SIGUSR1); st.after(time.Hour); st.die(138) }, Sender{}},
		{"a stop from outside", func(st *stage) {
			st.signals <- signals.Received{Signal: syscall.SIGTERM}
			synctest.Wait()
			st.die(143)
		}, kubelet},
		{"a stop from outside that the app obeys", func(st *stage) {
			st.signals <- signals.Received{Signal: syscall.SIGTERM}
			synctest.Wait()
			st.signal(syscall.SIGTERM) // the second one changes nothing
			st.die(0)
		}, kubelet},
		{"a stop that takes too long", func(st *stage) { st.signal(syscall.SIGTERM); st.after(8 * s); st.die(137) }, own},
		{"a restart", func(st *stage) {
			go func() { _ = st.app.Restart(context.Background(), ReasonRequest, "it was asked to") }()
			synctest.Wait()
			st.die(143)
		}, own},
		{"a signal that was asked for", func(st *stage) {
			_ = st.app.Signal(context.Background(), syscall.SIGUSR2, "it was asked to")
			st.die(140)
		}, own},
	} {
		synctest.Test(t, func(t *testing.T) {
			st := newStage(t)
			st.begin(container())
			st.after(20 * s)
			c.story(st)
			if st.death.Sender != c.want {
				t.Errorf("%s: by %+v, want %+v", c.name, st.death.Sender, c.want)
			}
			if st.app.Snapshot().State != StateStopped {
				st.die(0)
				st.ended(0)
			}
		})
	}
	o := container()
	o.KillSignal = syscall.SIGINT
	play(t, o, func(st *stage) {
		st.signal(syscall.SIGTERM)
		st.die(130)
		if st.death.Sender != person {
			t.Errorf("by the kill signal: %+v", st.death.Sender)
		}
	})
}

// What the app has left behind about its end makes the reason, unless evermore
// knows better.
func TestExplain(t *testing.T) {
	var report *Report
	var asked []int
	takes := time.Duration(0)
	o := container()
	o.Explain = func(pid int) *Report {
		asked = append(asked, pid)
		time.Sleep(takes)
		return report
	}
	play(t, o, func(st *stage) {
		st.after(20 * s)
		report = &Report{Reason: ReasonException, Message: "Error: boom"}
		takes = 100 * ms
		st.die(1)
		st.after(20 * s)
		report = &Report{Reason: ReasonHeap}
		st.die(134)
		if st.after(20 * s); st.death.Report != report {
			t.Errorf("the report is %+v", st.death.Report)
		}
		report = nil
		st.die(2)
		st.after(20 * s)
		takes = 5 * s
		st.die(3)
		st.after(20 * s)
		takes, report = 0, &Report{Trigger: "Signal"}
		st.die(4)
		st.after(20 * s)
		report = &Report{Reason: ReasonException}
		st.oomKills.Store(1)
		st.die(137)
		st.after(20 * s)
		st.told("0 started 101", "1 ready",
			"20.1 exited code 1 exception", "20.1 restarting 1 exception", "20.1 started 102", "21.1 ready",
			"40.1 exited signal 6 heap", "40.1 restarting 2 heap", "40.1 started 103", "41.1 ready",
			"60.1 exited code 2 exit", "60.1 restarting 3 exit", "60.1 started 104", "61.1 ready",
			"81 exited code 3 exit", "81 restarting 4 exit", "81 started 105", "82 ready",
			"100 exited code 4 exit", "100 restarting 5 exit", "100 started 106", "101 ready",
			"120 out of memory: 1 killed, of the app 106", "120 exited signal 9 oom", "120 gave up 137: it was restarted 5 times in 10m0s", "120 stopped 137")
	})
	if want := []int{101, 102, 103, 104, 105, 106}; !slices.Equal(asked, want) {
		t.Errorf("asked about %d", asked)
	}
	asked, takes = nil, 0
	play(t, o, func(st *stage) { // which is no failure, or evermore's doing
		st.signal(syscall.SIGTERM)
		st.die(1)
	})
	play(t, o, func(st *stage) { st.die(0) })
	if asked != nil {
		t.Errorf("asked about %d", asked)
	}
}

// A stop while the report is being read is a stop.
func TestStopWhileExplained(t *testing.T) {
	o := container()
	o.Explain = func(int) *Report { time.Sleep(500 * ms); return &Report{Reason: ReasonException} }
	play(t, o, func(st *stage) {
		st.after(20 * s)
		st.forget()
		st.die(1)
		st.after(100 * ms)
		st.signal(syscall.SIGTERM)
		st.after(s)
		st.told("20.1 signal SIGTERM sent as nothing", "20.1 stopping", "20.5 exited code 1 request", "20.5 stopped 1")
	})
}

// Restarts that an earlier supervisor made are counted: the app has the budget
// that is left, and one run with none.
func TestRecall(t *testing.T) {
	const m = time.Minute
	for _, c := range []struct {
		ago  []time.Duration
		left int
	}{
		{nil, 5},
		{[]time.Duration{11 * m, 10 * m, 9 * m, 3 * m}, 3},
		{[]time.Duration{5 * m, 4 * m, 3 * m, 2 * m, 1 * m}, 0},
		{[]time.Duration{5 * m, 4 * m, 3 * m, 2 * m, 1 * m, 0}, 0},
		{[]time.Duration{-time.Hour}, 4}, // a clock that was set: now, at the latest
	} {
		play(t, container(), func(st *stage) {
			st.after(20 * s)
			st.app.Recall(c.ago)
			synctest.Wait()
			if left := st.app.Snapshot().RestartsRemaining; left != c.left {
				t.Errorf("after %v: %d restarts are left, want %d", c.ago, left, c.left)
			}
			for range c.left {
				st.die(1)
				st.after(11 * s)
			}
			st.die(1)
			st.ended(1)
			st.app.Recall(nil) // comes too late, and does not wait
		})
	}
	if h := (History{restarts: []time.Duration{7}}).with([]time.Duration{3, 1}, 5); !slices.Equal(h.restarts, []time.Duration{2, 4, 7}) {
		t.Errorf("the history has %v", h.restarts)
	}
}

func TestSpinningBacksOffAndGivesUp(t *testing.T) {
	play(t, container(), func(st *stage) {
		for range 6 {
			st.die(3)
			st.after(s)
		}
		st.told("0 started 101",
			"0 exited code 3 exit spinning", "0 backing off 100ms", "0.1 restarting 1 exit", "0.1 started 102",
			"1 exited code 3 exit spinning", "1 backing off 100ms", "1.1 restarting 2 exit", "1.1 started 103",
			"2 exited code 3 exit spinning", "2 backing off 100ms", "2.1 restarting 3 exit", "2.1 started 104",
			"3 exited code 3 exit spinning", "3 backing off 100ms", "3.1 restarting 4 exit", "3.1 started 105",
			"4 exited code 3 exit spinning", "4 backing off 100ms", "4.1 restarting 5 exit", "4.1 started 106",
			"5 exited code 3 exit spinning", "5 gave up 3: it was restarted 5 times in 10m0s", "5 stopped 3")
		st.ended(3)
	})
}

func TestForeverGivesUpSpinningScript(t *testing.T) {
	play(t, Options{Policy: Policy{MinUptime: s}}, func(st *stage) {
		st.after(500 * ms)
		st.die(137)
		st.told("0 started 101", "0.5 exited signal 9 signal spinning", "0.5 gave up 137: it did not stay up for 1s", "0.5 stopped 137")
		st.ended(137)
	})
}

func TestSnapshotInBackoff(t *testing.T) {
	o := container()
	o.Policy.SpinSleepTime = 5 * s
	play(t, o, func(st *stage) {
		st.die(1)
		st.after(s)
		snap := st.app.Snapshot()
		if snap.State != StateBackoff || snap.Ready || !snap.Spinning || snap.Backoff != 5*s || !snap.BackoffUntil.Equal(st.began.Add(5*s)) || snap.PID != 0 || !snap.UnreadySince.IsZero() {
			t.Errorf("snapshot %+v", snap)
		}
		st.after(5 * s)
		if snap := st.app.Snapshot(); snap.State != StateRunning || snap.Backoff != 0 || !snap.BackoffUntil.IsZero() || !snap.Spinning {
			t.Errorf("snapshot %+v", snap)
		}
		st.after(20 * s)
		if st.app.Snapshot().Spinning {
			t.Error("a run that lasts is spinning")
		}
		st.die(0)
	})
}

func TestStop(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.signal(syscall.SIGTERM)
		st.after(3 * s)
		st.signal(syscall.SIGTERM) // changes nothing
		st.die(143)
		st.told("0 started 101", "0 signal SIGTERM sent as SIGTERM", "0 stopping", "0 SIGTERM to 101",
			"3 signal SIGTERM sent as nothing", "3 exited signal 15 request", "3 stopped 143")
		st.ended(143)
	})
}

func TestStopOfStubborn(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.signal(syscall.SIGTERM)
		st.after(8 * s)
		if snap := st.app.Snapshot(); snap.UnkillableSince.IsZero() || snap.State != StateStopping {
			t.Errorf("snapshot %+v", snap)
		}
		st.die(137)
		st.told("0 started 101", "0 signal SIGTERM sent as SIGTERM", "0 stopping", "0 SIGTERM to 101",
			"8 killed", "8 SIGKILL to group 101", "8 SIGKILL to 101", "8 exited signal 9 request", "8 stopped 137")
		st.ended(137)
	})
}

func TestStopOfUnkillable(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.signal(syscall.SIGTERM)
		st.after(14 * s)
		st.told("0 started 101", "0 signal SIGTERM sent as SIGTERM", "0 stopping", "0 SIGTERM to 101", "8 killed", "8 SIGKILL to group 101", "8 SIGKILL to 101",
			"13 warning: process 101 is still there 5s after SIGKILL: it hangs in the kernel", "13 stopped 137")
		st.ended(137)
	})
}

func TestNoKillTimeout(t *testing.T) {
	o := container()
	o.KillTimeout = 0
	play(t, o, func(st *stage) {
		st.signal(syscall.SIGTERM)
		st.after(time.Hour)
		st.die(0)
		st.ended(0)
	})
}

func TestInterruptWhileStoppingKills(t *testing.T) {
	o := container()
	o.KillTree = false
	play(t, o, func(st *stage) {
		st.signal(syscall.SIGINT)
		st.after(s)
		st.signal(syscall.SIGINT)
		st.signal(syscall.SIGINT)
		st.die(137)
		st.told("0 started 101", "0 signal SIGINT sent as SIGINT", "0 stopping", "0 SIGINT to 101", "1 signal SIGINT sent as nothing",
			"1 killed", "1 SIGKILL to 101", "1 signal SIGINT sent as nothing", "1 exited signal 9 request", "1 stopped 137")
		st.ended(137)
	})
}

func TestStopInBackoffIsImmediate(t *testing.T) {
	o := container()
	o.Policy.SpinSleepTime = time.Hour
	play(t, o, func(st *stage) {
		st.die(7)
		st.signal(syscall.SIGTERM)
		st.told("0 started 101", "0 exited code 7 exit spinning", "0 backing off 1h0m0s", "0 signal SIGTERM sent as nothing", "0 stopping", "0 stopped 7")
		st.ended(7)
	})
}

func TestKillSignalAndRewriting(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Options)
		in     syscall.Signal
		want   []string
	}{
		{"kill signal", func(o *Options) { o.KillSignal = syscall.SIGUSR2 }, syscall.SIGTERM, []string{"0 signal SIGTERM sent as SIGUSR2", "0 stopping", "0 SIGUSR2 to 101"}},
		{"rewriting wins", func(o *Options) {
			o.KillSignal = syscall.SIGUSR2
			o.Rewrite = map[syscall.Signal]syscall.Signal{syscall.SIGTERM: syscall.SIGINT}
		}, syscall.SIGTERM, []string{"0 signal SIGTERM sent as SIGINT", "0 stopping", "0 SIGINT to 101"}},
		{"QUIT means stop", func(*Options) {}, syscall.SIGQUIT, []string{"0 signal SIGQUIT sent as SIGQUIT", "0 stopping", "0 SIGQUIT to 101"}},
		{"group", func(o *Options) { o.SignalGroup = true }, syscall.SIGTERM, []string{"0 signal SIGTERM sent as SIGTERM", "0 stopping", "0 SIGTERM to group 101"}},
		{"other stop signal", func(o *Options) { o.StopSignals = signals.SetOf(syscall.SIGWINCH) }, syscall.SIGWINCH, []string{"0 signal SIGWINCH sent as SIGWINCH", "0 stopping", "0 SIGWINCH to 101"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := container()
			c.change(&o)
			play(t, o, func(st *stage) {
				st.forget()
				st.signal(c.in)
				st.told(c.want...)
				st.die(0)
				st.ended(0)
			})
		})
	}
}

func TestForwarding(t *testing.T) {
	o := container()
	o.Rewrite = map[syscall.Signal]syscall.Signal{syscall.SIGUSR1: syscall.SIGUSR2, syscall.SIGTERM: 0}
	play(t, o, func(st *stage) {
		st.forget()
		st.signal(syscall.SIGHUP)
		st.signal(syscall.SIGUSR1)
		st.signal(syscall.SIGTERM) // means nothing
		st.signal(syscall.SIGSEGV) // is evermore's own affair
		st.signals <- signals.Received{Signal: syscall.SIGWINCH, PID: 9, Forwarded: true}
		st.signals <- signals.Received{Signal: syscall.SIGPIPE, PID: os.Getpid()} // evermore's own
		st.signal(syscall.SIGPIPE)
		st.told("0 SIGHUP to 101", "0 signal SIGHUP sent as SIGHUP", "0 SIGUSR2 to 101", "0 signal SIGUSR1 sent as SIGUSR2",
			"0 signal SIGTERM sent as nothing", "0 signal SIGSEGV sent as nothing", "0 signal SIGWINCH sent as SIGWINCH",
			"0 SIGPIPE to 101", "0 signal SIGPIPE sent as SIGPIPE")
		st.die(0)
		st.signalIfAlive(syscall.SIGHUP)
		st.ended(0)
	})
}

func (st *stage) signalIfAlive(s syscall.Signal) {
	select {
	case st.signals <- signals.Received{Signal: s}:
	case <-st.done:
	}
}

func TestSignalInBackoffGoesNowhere(t *testing.T) {
	o := container()
	o.Policy.SpinSleepTime = 10 * s
	play(t, o, func(st *stage) {
		st.die(7)
		st.forget()
		st.signal(syscall.SIGHUP)
		st.told("0 signal SIGHUP sent as nothing")
		st.signal(syscall.SIGINT)
		st.ended(7)
	})
}

// A death by a signal that evermore has just forwarded is asked for.
func TestDeathByForwardedSignal(t *testing.T) {
	t.Run("known", func(t *testing.T) {
		play(t, container(), func(st *stage) {
			st.signal(syscall.SIGHUP)
			st.die(129)
			st.told("0 started 101", "0 SIGHUP to 101", "0 signal SIGHUP sent as SIGHUP", "0 exited signal 1 request", "0 restarting 1 request", "0 started 102")
			if n := st.app.Snapshot().RestartsRemaining; n != 5 {
				t.Errorf("%d restarts remain", n)
			}
			st.die(0)
		})
	})
	t.Run("its report is on its way", func(t *testing.T) {
		play(t, container(), func(st *stage) {
			st.just[syscall.SIGHUP] = true
			st.die(129)
			st.told("0 started 101", "0 exited signal 1 request", "0 restarting 1 request", "0 started 102")
			st.die(0)
		})
	})
	t.Run("long ago", func(t *testing.T) {
		play(t, container(), func(st *stage) {
			st.signal(syscall.SIGHUP)
			st.after(forwardedFor)
			st.forget()
			st.die(129)
			st.told("5 exited signal 1 signal spinning", "5 backing off 100ms")
			st.after(s)
			st.die(0)
		})
	})
	t.Run("another one", func(t *testing.T) {
		play(t, container(), func(st *stage) {
			st.signal(syscall.SIGHUP)
			st.forget()
			st.die(137)
			st.told("0 exited signal 9 signal spinning", "0 backing off 100ms")
			st.after(s)
			st.die(0)
		})
	})
}

func TestTerminal(t *testing.T) {
	o := Options{Terminal: true, StopSignals: stopSet, KillTimeout: 10 * s, Policy: Policy{MinUptime: s, SpinSleepTime: s}}
	fromTerminal := func(st *stage, s syscall.Signal) {
		st.signals <- signals.Received{Signal: s, Code: 0x80}
		synctest.Wait()
	}
	t.Run("^C is a stop that the child has had already", func(t *testing.T) {
		play(t, o, func(st *stage) {
			fromTerminal(st, syscall.SIGINT)
			st.die(130)
			st.told("0 started 101", "0 signal SIGINT sent as SIGINT", "0 stopping", "0 exited signal 2 request", "0 stopped 130")
			st.ended(130)
		})
	})
	t.Run("^C that the child dies of first", func(t *testing.T) {
		play(t, o, func(st *stage) {
			st.die(130)
			st.after(5 * ms)
			fromTerminal(st, syscall.SIGINT)
			st.after(settleTime)
			st.told("0 started 101", "0.005 signal SIGINT sent as SIGINT", "0.005 stopping", "0.02 exited signal 2 request", "0.02 stopped 130")
			st.ended(130)
		})
	})
	t.Run("a crash is one", func(t *testing.T) {
		play(t, o, func(st *stage) {
			st.die(1)
			st.after(settleTime)
			st.told("0 started 101", "0.02 exited code 1 exit spinning", "0.02 backing off 1s")
			st.signal(syscall.SIGTERM)
			st.ended(1)
		})
	})
	t.Run("a change of the window's size is not sent twice", func(t *testing.T) {
		play(t, o, func(st *stage) {
			fromTerminal(st, syscall.SIGWINCH)
			st.signal(syscall.SIGWINCH)
			st.told("0 started 101", "0 signal SIGWINCH sent as SIGWINCH", "0 SIGWINCH to 101", "0 signal SIGWINCH sent as SIGWINCH")
			fromTerminal(st, syscall.SIGINT)
			st.die(0)
			st.ended(0)
		})
	})
	t.Run("a kill signal of its own is still sent", func(t *testing.T) {
		o := o
		o.KillSignal = syscall.SIGUSR2
		play(t, o, func(st *stage) {
			st.forget()
			fromTerminal(st, syscall.SIGINT)
			st.told("0 signal SIGINT sent as SIGUSR2", "0 stopping", "0 SIGUSR2 to 101")
			st.die(0)
			st.ended(0)
		})
	})
}

func TestHaltedChildIsContinuedToStop(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.halted.Store(true)
		st.forget()
		st.signal(syscall.SIGTERM)
		st.told("0 signal SIGTERM sent as SIGTERM", "0 stopping", "0 SIGTERM to 101", "0 SIGCONT to 101")
		st.die(143)
		st.ended(143)
	})
}

// An app that reads its terminal in the background is stopped by the kernel, and
// that may be just before it takes the signal.
func TestChildHaltedWhileStoppingIsContinued(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.forget()
		st.signal(syscall.SIGTERM)
		st.after(20 * ms)
		st.halted.Store(true)
		st.after(40 * ms)
		st.halted.Store(false)
		st.after(200 * ms)
		st.halted.Store(true)
		st.after(100 * ms)
		st.told("0 signal SIGTERM sent as SIGTERM", "0 stopping", "0 SIGTERM to 101", "0.05 SIGCONT to 101", "0.35 SIGCONT to 101")
		st.die(143)
		st.ended(143)
	})
}

func draining(d time.Duration) Options {
	o := container()
	o.DrainWait = d
	return o
}

func TestDrain(t *testing.T) {
	play(t, draining(5*s), func(st *stage) {
		st.after(20 * s)
		st.forget()
		st.signal(syscall.SIGTERM)
		if ok, why := st.app.CheckReady(context.Background()); ok || why != "it is to end, and drains" {
			t.Errorf("ready %v: %s", ok, why)
		}
		st.after(1 * s)
		st.signal(syscall.SIGTERM)
		st.signal(syscall.SIGUSR1) // is for the app all the while
		st.after(5 * s)
		st.told("20 signal SIGTERM sent as nothing", "20 stopping after 5s", "21 signal SIGTERM sent as nothing", "21 SIGUSR1 to 101",
			"21 signal SIGUSR1 sent as SIGUSR1", "25 drained", "25 SIGTERM to 101")
		st.forget()
		st.after(6 * s)
		st.told()
		st.after(2 * s)
		st.told("33 killed", "33 SIGKILL to group 101", "33 SIGKILL to 101")
		st.die(137)
		st.ended(137)
	})
}

// An app that dies while it drains had not been told to: its death is its own.
func TestDeathInTheDrain(t *testing.T) {
	play(t, draining(5*s), func(st *stage) {
		st.after(20 * s)
		st.forget()
		st.signal(syscall.SIGTERM)
		st.after(1 * s)
		st.die(3)
		st.told("20 signal SIGTERM sent as nothing", "20 stopping after 5s", "21 exited code 3 exit", "21 stopped 3")
		st.ended(3)
	})
}

// Who can't wait is not made to: ^C a second time, SIGKILL by the API, a terminal
// that has told the app already, an app that is down.
func TestNoDrain(t *testing.T) {
	play(t, draining(5*s), func(st *stage) {
		st.after(20 * s)
		st.signal(syscall.SIGINT)
		st.after(1 * s)
		st.forget()
		st.signal(syscall.SIGINT)
		st.told("21 signal SIGINT sent as nothing", "21 killed", "21 SIGKILL to group 101", "21 SIGKILL to 101")
		st.after(4 * s)
		st.told()
		st.die(137)
		st.ended(137)
	})
	play(t, draining(5*s), func(st *stage) {
		st.forget()
		go func() { _ = st.app.Stop(context.Background(), syscall.SIGKILL) }()
		synctest.Wait()
		st.told("0 stopping", "0 SIGKILL to 101", "0 killed", "0 SIGKILL to group 101", "0 SIGKILL to 101")
		st.die(137)
		st.ended(137)
	})
	o := draining(5 * s)
	o.Terminal = true
	play(t, o, func(st *stage) {
		st.forget()
		st.signals <- signals.Received{Signal: syscall.SIGINT, Code: 0x80}
		synctest.Wait()
		st.told("0 signal SIGINT sent as SIGINT", "0 stopping")
		st.die(130)
		st.ended(130)
	})
	play(t, draining(5*s), func(st *stage) {
		st.die(1)
		st.signal(syscall.SIGTERM)
		st.ended(1)
	})
}

func TestLeftoversEndBeforeTheRestart(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.after(20 * s)
		st.forget()
		st.left = []*remnant{{stage: st}, {stage: st}}
		st.die(1)
		st.after(300 * ms)
		st.left[0].dead = true
		st.sigchld()
		st.left[1].dead = true
		st.left = append(st.left, &remnant{stage: st}) // which it started when it got SIGTERM
		st.sigchld()
		st.left[2].dead = true
		st.sigchld()
		st.told("20 leftovers chrome (77), chrome (77)", "20 SIGTERM to leftover", "20 SIGTERM to leftover", "20.3 SIGTERM to leftover",
			"20.3 exited code 1 exit", "20.3 restarting 1 exit", "20.3 started 102")
		st.die(0)
		st.ended(0)
	})
}

func TestStubbornLeftovers(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.after(20 * s)
		st.forget()
		st.left = []*remnant{{stage: st}}
		st.die(1)
		st.after(900 * ms)
		st.left[0].dead = true
		st.sigchld()
		st.told("20 leftovers chrome (77)", "20 SIGTERM to leftover", "20.8 SIGKILL to leftover", "20.9 exited code 1 exit", "20.9 restarting 1 exit", "20.9 started 102")
		st.left = []*remnant{{stage: st}} // and one that even SIGKILL does not end
		st.after(20 * s)
		st.forget()
		st.die(1)
		st.after(s)
		st.told("40.9 leftovers chrome (77)", "40.9 SIGTERM to leftover", "41.7 SIGKILL to leftover", "41.9 stuck chrome (77)", "41.9 exited code 1 exit", "41.9 restarting 2 exit", "41.9 started 103")
		st.left = nil
		st.die(0)
	})
}

func TestStopWhileClearing(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.after(20 * s)
		st.forget()
		st.left = []*remnant{{stage: st}}
		st.die(1)
		st.signal(syscall.SIGTERM)
		st.left[0].dead = true
		st.sigchld()
		st.told("20 leftovers chrome (77)", "20 SIGTERM to leftover", "20 signal SIGTERM sent as nothing", "20 stopping", "20 exited code 1 request", "20 stopped 1")
		st.ended(1)
	})
}

func TestNoKillTreeLeavesLeftovers(t *testing.T) {
	o := container()
	o.KillTree = false
	play(t, o, func(st *stage) {
		st.left = []*remnant{{stage: st}}
		st.after(20 * s)
		st.die(0)
		st.told("0 started 101", "1 ready", "20 exited code 0 exit", "20 stopped 0")
		st.ended(0)
	})
}

func TestBefore(t *testing.T) {
	o := container()
	o.Before = []string{"migrate", "up"}
	t.Run("then the app", func(t *testing.T) {
		play(t, o, func(st *stage) {
			if snap := st.app.Snapshot(); snap.State != StatePreparing || snap.Ready {
				t.Errorf("snapshot %+v", snap)
			}
			st.after(3 * s)
			st.die(0)
			st.die(0)
			st.told("0 preparing 101", "3 started 102", "3 exited code 0 exit spinning", "3 stopped 0")
			if !slices.Equal(st.commands[0].Argv, o.Before) || !slices.Equal(st.commands[1].Argv, []string{"node"}) {
				t.Errorf("ran %v", st.commands)
			}
		})
	})
	t.Run("its failure is the end", func(t *testing.T) {
		play(t, o, func(st *stage) {
			st.die(4)
			st.told("0 preparing 101", "0 gave up 4: the command of --before failed: code 4", "0 stopped 4")
			st.ended(4)
		})
	})
	t.Run("stopped", func(t *testing.T) {
		play(t, o, func(st *stage) {
			st.signal(syscall.SIGTERM)
			st.die(143)
			st.told("0 preparing 101", "0 signal SIGTERM sent as SIGTERM", "0 stopping", "0 SIGTERM to 101", "0 stopped 143")
			st.ended(143)
		})
	})
	t.Run("the app can't be run", func(t *testing.T) {
		play(t, o, func(st *stage) {
			st.failures = []error{&reaper.StartError{Name: "node", What: "run", Err: syscall.ENOENT, Exec: true}}
			st.die(0)
			st.told("0 preparing 101", `0 gave up 127: cannot run "node": no such file or directory`, "0 stopped 127")
			st.ended(127)
		})
	})
}

func TestFirstStartFails(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{&reaper.StartError{Name: "nope", What: "run", Err: syscall.ENOENT, Exec: true}, 127},
		{&reaper.StartError{Name: "nope", What: "run", Err: syscall.EACCES, Exec: true}, 126},
		{errors.New("other"), 1},
	} {
		for _, before := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				st := newStage(t)
				st.failures = []error{c.err}
				o := container()
				if before {
					o.Before = []string{"migrate"}
				}
				st.begin(o)
				<-st.done
				if st.code != c.code || !errors.Is(st.err, c.err) || len(st.log) != 0 {
					t.Errorf("got %d, %v, %v", st.code, st.err, st.log)
				}
			})
		}
	}
}

// A fork that fails is a spinning start; a restart that can't be executed, too.
func TestFailedForkIsRetried(t *testing.T) {
	again := &reaper.StartError{Name: "node", What: "start a process for", Err: syscall.EAGAIN}
	missing := &reaper.StartError{Name: "node", What: "run", Err: syscall.ENOENT, Exec: true}
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t)
		st.failures = []error{again, again}
		st.begin(container())
		st.after(s)
		st.told(`0 spawn failed 126: cannot start a process for "node": resource temporarily unavailable`, "0 backing off 100ms", "0.1 restarting 1 spawn",
			`0.1 spawn failed 126: cannot start a process for "node": resource temporarily unavailable`, "0.1 backing off 100ms", "0.2 restarting 2 spawn", "0.2 started 101")
		st.after(20 * s)
		st.failures = []error{missing}
		st.forget()
		st.die(1)
		st.after(s)
		st.told("21 exited code 1 exit", "21 restarting 3 exit", `21 spawn failed 127: cannot run "node": no such file or directory`, "21 backing off 100ms", "21.1 restarting 4 spawn", "21.1 started 102")
		st.failures = []error{missing, missing, missing}
		st.forget()
		st.die(1)
		st.after(s)
		st.told("22 exited code 1 exit spinning", "22 backing off 100ms", "22.1 restarting 5 exit", `22.1 spawn failed 127: cannot run "node": no such file or directory`,
			"22.1 gave up 127: it was restarted 5 times in 10m0s", "22.1 stopped 127")
		st.ended(127)
	})
}

func TestStopAfterFailedStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t)
		st.failures = []error{&reaper.StartError{Name: "node", What: "start a process for", Err: syscall.EAGAIN}}
		o := container()
		o.Policy.SpinSleepTime = time.Hour
		st.begin(o)
		st.signal(syscall.SIGTERM)
		st.ended(126)
	})
}

func TestRemapExit(t *testing.T) {
	o := container()
	o.RemapExit = map[int]int{143: 0}
	play(t, o, func(st *stage) {
		st.signal(syscall.SIGTERM)
		st.die(143)
		st.ended(0)
	})
}

func TestUnkillableByPermission(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.killErr = syscall.EPERM
		st.forget()
		st.signal(syscall.SIGHUP)
		st.told("0 SIGHUP to 101", "0 warning: cannot send SIGHUP to process 101: operation not permitted (it runs as another user: evermore needs CAP_KILL)", "0 signal SIGHUP sent as nothing")
		st.killErr = reaper.ErrGone
		st.signal(syscall.SIGHUP)
		st.told("0 SIGHUP to 101", "0 signal SIGHUP sent as nothing")
		st.die(0)
	})
}

func TestZombieIsToldOnce(t *testing.T) {
	play(t, container(), func(st *stage) {
		z := reaper.Zombie{PID: 7, ParentPID: 5, ParentName: "npm"}
		st.after(3 * s)
		st.neglect(z)
		st.after(24 * time.Hour)
		st.told("0 started 101", "1 ready", "34 zombie 7 of npm (5)")
		// One that its parent does reap is not told.
		st.neglect(reaper.Zombie{PID: 8, ParentPID: 5, ParentName: "npm"})
		for before := st.looked(); st.looked() == before; {
			st.after(100 * ms)
		}
		st.neglect()
		st.after(24 * time.Hour)
		st.told()
		st.die(0)
	})
}

// The look-outs get rare, so that idle costs nothing; a probe may make one.
func TestLookoutsGetRare(t *testing.T) {
	z := zombieWatch{}
	looks, at := 0, z.restart()
	for ; at < 24*time.Hour; looks++ {
		at += z.interval
		z.interval = min(lookoutGrowth*z.interval, lookoutLast)
	}
	if looks > 30 {
		t.Errorf("%d look-outs in a day", looks)
	}
	play(t, container(), func(st *stage) {
		st.after(20 * time.Hour)
		looks := st.looked()
		if err := st.app.Ping(context.Background()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := st.looked() - looks; n != 1 {
			t.Errorf("%d look-outs by a probe", n)
		}
		st.die(0)
	})
}

func TestOrphansAreTold(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.forget()
		st.orphans = []reaper.Exit{{PID: 900}, {PID: 901}}
		st.sigchld()
		st.told("0 orphan 900", "0 orphan 901")
		st.dead = []reaper.Exit{{PID: 4}}
		st.sigchld()
		st.told("0 warning: internal error: the exit of process 4, which is no run")
		st.die(0)
	})
}

func TestPing(t *testing.T) {
	play(t, container(), func(st *stage) {
		if err := st.app.Ping(context.Background()); err != nil {
			t.Error(err)
		}
		st.die(0)
		<-st.done
		if err := st.app.Ping(context.Background()); err == nil {
			t.Error("an app that has ended answers")
		}
	})
	stuck := New(container(), nil, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := stuck.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestManyLeftoversAreCounted(t *testing.T) {
	var l []Leftover
	for range 11 {
		l = append(l, &remnant{})
	}
	if got := names(l); !strings.HasSuffix(got, "chrome (77) and 3 more") {
		t.Errorf("got %s", got)
	}
}

// A ^C that arrives twice is one; the next one is not.
func TestSameInterrupt(t *testing.T) {
	play(t, Options{StopSignals: stopSet}, func(st *stage) {
		st.signal(syscall.SIGINT)
		st.signal(syscall.SIGINT)
		time.Sleep(sameInterrupt)
		if slices.ContainsFunc(st.log, func(l string) bool { return strings.HasSuffix(l, "killed") }) {
			t.Error("the second half of a ^C killed the app")
		}
		st.signal(syscall.SIGINT)
		if !slices.ContainsFunc(st.log, func(l string) bool { return strings.HasSuffix(l, "killed") }) {
			t.Error("a ^C while stopping did not kill the app")
		}
		st.die(137)
	})
}
