package pid1

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"evermore/cgroup"
	"evermore/reaper"
)

// thread is a Link whose processes a test plays.
type thread struct {
	st      *stage
	drains  bool
	stack   string
	hung    atomic.Int64 // since when pings are not answered, in nanoseconds; 0: they are
	forgave atomic.Int64
}

func (l *thread) Hand(_ *reaper.Command, start func() error) error { return start() }

func (l *thread) Drain(pid int, last bool) bool {
	if l.drains {
		l.st.note("%d drains, last: %v", pid, last)
	}
	return l.drains
}

func (l *thread) Stopping(pid int) { l.st.note("stop follows for %d", pid) }

func (l *thread) Ping(int) time.Duration {
	if since := l.hung.Load(); since != 0 {
		return time.Since(time.Unix(0, since))
	}
	return 0
}

func (l *thread) Forgive(int) {
	l.forgave.Add(1)
	if l.hung.Load() != 0 {
		l.hangs(true)
	}
}

func (l *thread) hangs(does bool) {
	l.hung.Store(0)
	if does {
		l.hung.Store(time.Now().UnixNano())
	}
}

func (l *thread) Stack(context.Context, int) (string, error) {
	if l.stack == "" {
		return "", errors.New("no stack")
	}
	return l.stack, nil
}

// linked plays a story with a link.
func linked(t *testing.T, o Options, l *thread, story func(*stage)) {
	t.Helper()
	o.Link = l
	play(t, o, func(st *stage) {
		l.st = st
		story(st)
	})
}

func (st *stage) tell(what Telling, text string) {
	st.app.Tell(Told{PID: st.running.pid, What: what, Text: text})
	synctest.Wait()
}

func (st *stage) readiness() (bool, string) { return st.app.CheckReady(context.Background()) }

func TestReadyListening(t *testing.T) {
	o := container()
	o.Ready.By = ReadyListening
	linked(t, o, &thread{}, func(st *stage) {
		if ok, why := st.readiness(); ok || why != "it does not listen yet" {
			t.Errorf("at first: %v, %q", ok, why)
		}
		st.app.Tell(Told{PID: 1, What: Listens}) // somebody else
		if ok, _ := st.readiness(); ok {
			t.Error("ready by a process that is not the app's")
		}
		st.tell(Listens, "")
		if ok, why := st.readiness(); !ok {
			t.Errorf("listening: %s", why)
		}
		st.tell(NotListening, "it does not listen")
		if ok, why := st.readiness(); ok || why != "it does not listen" {
			t.Errorf("then: %v, %q", ok, why)
		}
		st.tell(SaidReady, "")
		if ok, _ := st.readiness(); ok {
			t.Error("ready by a message")
		}
		st.signal(syscall.SIGTERM)
		st.die(143)
		st.ended(143)
	})
}

func TestReadyMessage(t *testing.T) {
	o := container()
	o.Ready.By = ReadyMessage
	linked(t, o, &thread{}, func(st *stage) {
		st.tell(Listens, "")
		if ok, why := st.readiness(); ok || why != "it has not sent the message ready yet" {
			t.Errorf("at first: %v, %q", ok, why)
		}
		st.tell(SaidReady, "")
		if ok, why := st.readiness(); !ok {
			t.Error(why)
		}
		st.signal(syscall.SIGTERM)
		st.die(143)
		st.ended(143)
	})
}

func TestFinish(t *testing.T) {
	linked(t, container(), &thread{drains: true}, func(st *stage) {
		st.after(time.Minute)
		st.forget()
		st.signal(syscall.SIGTERM)
		st.after(time.Second)
		st.tell(Finished, "")
		st.tell(Finished, "") // only once
		st.told("60 signal SIGTERM sent as nothing", "60 stopping", "60 101 drains, last: true", "61 stop follows for 101", "61 drained", "61 SIGTERM to 101")
		st.after(7 * time.Second) // the kill time-out counts from the beginning
		st.told("68 killed", "68 SIGKILL to group 101", "68 SIGKILL to 101")
		st.die(137)
		st.ended(137)
	})
}

func TestFinishTakesTooLong(t *testing.T) {
	for name, c := range map[string]struct {
		kill, limit time.Duration
	}{"half of the kill time-out": {8 * s, 4 * s}, "never killed": {0, finishTime}} {
		t.Run(name, func(t *testing.T) {
			o := container()
			o.KillTimeout = c.kill
			linked(t, o, &thread{drains: true}, func(st *stage) {
				st.forget()
				st.signal(syscall.SIGTERM)
				st.forget()
				st.after(c.limit - time.Millisecond)
				st.told()
				st.after(time.Millisecond)
				if len(st.log) != 3 {
					t.Errorf("when its time is over: %q", st.log)
				}
				st.die(0)
				st.ended(0)
			})
		})
	}
}

// An impatient ^C, a signal that can't be waited for, and a death in between.
func TestFinishIsCutShort(t *testing.T) {
	linked(t, container(), &thread{drains: true}, func(st *stage) {
		st.forget()
		st.signal(syscall.SIGINT)
		st.after(time.Second)
		st.signal(syscall.SIGINT)
		st.told("0 signal SIGINT sent as nothing", "0 stopping", "0 101 drains, last: true", "1 signal SIGINT sent as nothing", "1 killed", "1 SIGKILL to group 101", "1 SIGKILL to 101")
		st.die(137)
		st.ended(137)
	})
	linked(t, container(), &thread{drains: true}, func(st *stage) {
		st.forget()
		q := st.stop(syscall.SIGKILL)
		if len(st.log) == 0 || slices.Contains(st.log, "0 101 drains, last: true") {
			t.Errorf("SIGKILL: %q", st.log)
		}
		st.die(137)
		q.answered(nil)
	})
	linked(t, container(), &thread{drains: true}, func(st *stage) {
		q := st.restart()
		st.die(0)
		q.answered(nil)
		st.tell(Finished, "") // of the one before: it means nothing
		st.forget()
		st.signal(syscall.SIGTERM)
		st.tell(Finished, "")
		st.die(143)
		st.ended(143)
	})
}

func TestHang(t *testing.T) {
	o := container()
	o.HangTimeout = 30 * s
	l := &thread{}
	linked(t, o, l, func(st *stage) {
		st.after(time.Hour)
		st.forget()
		l.hangs(true)
		st.after(29 * time.Second)
		st.told()
		st.after(10 * time.Second)
		if len(st.log) == 0 || st.app.Snapshot().State != StateStopping {
			t.Fatalf("it hangs: %s, %q", st.app.Snapshot().State, st.log)
		}
		if !slices.ContainsFunc(st.log, func(line string) bool { return strings.HasSuffix(line, " killed") }) {
			t.Errorf("it is not killed soon: %q", st.log)
		}
		l.hangs(false)
		st.die(137)
		if s := st.app.Snapshot(); s.LastReason != ReasonHang {
			t.Errorf("the reason is %s", s.LastReason)
		}
		st.after(time.Minute)
		st.signal(syscall.SIGTERM)
		st.die(143)
		st.ended(143)
	})
}

// One that lacks processor time does not hang, nor does one that was stopped on
// purpose.
func TestNoHang(t *testing.T) {
	o := container()
	o.HangTimeout = 30 * s
	l := &thread{}
	linked(t, o, l, func(st *stage) {
		st.uses(Usage{Throttles: true})
		st.after(time.Minute)
		l.hangs(true)
		st.after(16 * time.Second)
		st.uses(Usage{Throttles: true, Throttling: cgroup.Throttling{Time: 20 * time.Second}})
		st.after(30 * time.Second)
		if s := st.app.Snapshot(); s.State != StateRunning || l.forgave.Load() == 0 {
			t.Errorf("throttled: %s, forgiven %d times", s.State, l.forgave.Load())
		}
		l.hangs(true)
		st.halted.Store(true)
		st.after(5 * time.Minute)
		if s := st.app.Snapshot(); s.State != StateRunning {
			t.Errorf("stopped: %s", s.State)
		}
		st.halted.Store(false)
		l.hangs(false)
		st.signal(syscall.SIGTERM)
		st.die(143)
		st.ended(143)
	})
}

func TestHangStack(t *testing.T) {
	for _, stack := range []string{"    at spin (app.js:3:3)\n", ""} {
		o := container()
		o.HangTimeout, o.HangStack = 30*s, true
		l := &thread{stack: stack}
		linked(t, o, l, func(st *stage) {
			st.after(time.Hour)
			l.hangs(true)
			st.after(40 * time.Second)
			if s := st.app.Snapshot(); s.State != StateStopping {
				t.Errorf("with the stack %q: %s", stack, s.State)
			}
			st.die(143)
			l.hangs(false)
			st.after(time.Minute)
			st.signal(syscall.SIGTERM)
			st.die(143)
			st.ended(143)
		})
	}
}
