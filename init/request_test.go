package pid1

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"evermore/reaper"
	"evermore/signals"
)

// question is a request that is on its way.
type question struct {
	st     *stage
	answer chan error
	cancel context.CancelFunc
}

func (st *stage) ask(request func(context.Context) error) *question {
	ctx, cancel := context.WithCancel(context.Background())
	q := &question{st, make(chan error, 1), cancel}
	go func() { q.answer <- request(ctx) }()
	synctest.Wait()
	return q
}

func (st *stage) restart() *question {
	return st.ask(func(ctx context.Context) error { return st.app.Restart(ctx, ReasonRequest, "it was asked to") })
}

func (st *stage) stop(by syscall.Signal) *question {
	return st.ask(func(ctx context.Context) error { return st.app.Stop(ctx, by) })
}

// waits says that there is no answer yet.
func (q *question) waits() {
	q.st.t.Helper()
	synctest.Wait()
	select {
	case err := <-q.answer:
		q.st.t.Errorf("answered %v too early", err)
	default:
	}
}

func (q *question) answered(want error) {
	q.st.t.Helper()
	synctest.Wait()
	select {
	case err := <-q.answer:
		if !errors.Is(err, want) || want == nil && err != nil {
			q.st.t.Errorf("answered %v, want %v", err, want)
		}
	default:
		q.st.t.Errorf("not answered, want %v", want)
	}
}

// exit lets a process end that need not be the one that was started last.
func (st *stage) exit(pid, status int) {
	st.t.Helper()
	last := st.running
	st.running = &actor{st, pid}
	st.die(status)
	if st.running.pid == pid { // else something was started
		st.running = last
	}
}

func TestRestartOfRunningApp(t *testing.T) {
	o := container()
	o.Policy.When, o.Policy.MaxRuns = Never, 1 // it asks no policy
	play(t, o, func(st *stage) {
		for range 7 { // more than MaxRestarts
			st.forget()
			began := st.app.Snapshot().Starts
			q := st.restart()
			q.waits()
			st.die(143)
			q.answered(nil)
			if s := st.app.Snapshot(); s.Starts != began+1 || s.Spinning || s.State != StateRunning {
				t.Errorf("snapshot %+v", s)
			}
		}
		st.told("0 stopping: it was asked to", "0 SIGTERM to 107", "0 exited signal 15 request", "0 restarting 7 request", "0 started 108")
		if s := st.app.Snapshot(); s.RestartsRemaining != 0 { // -m 1: no restart from the start
			t.Errorf("%d restarts remain", s.RestartsRemaining)
		}
		st.die(3)
		st.told("0 exited code 3 exit spinning", "0 stopped 3")
		st.ended(3)
	})
}

// Forced restarts leave the limits and the pauses as they were.
func TestRestartUsesUpNoLimit(t *testing.T) {
	play(t, container(), func(st *stage) {
		for range 3 {
			q := st.restart()
			st.die(1)
			q.answered(nil)
		}
		if s := st.app.Snapshot(); s.RestartsRemaining != 5 || s.Spinning {
			t.Errorf("snapshot %+v", s)
		}
		st.die(1)
		if s := st.app.Snapshot(); s.RestartsRemaining != 4 || !s.Spinning {
			t.Errorf("snapshot %+v", s)
		}
		st.after(20 * s)
		st.die(0)
	})
}

func TestRestartOfStubbornApp(t *testing.T) {
	play(t, container(), func(st *stage) {
		q, also := st.restart(), st.restart()
		st.after(8 * s)
		q.waits()
		st.die(137)
		q.answered(nil)
		also.answered(nil) // one restart is enough for both
		st.told("0 started 101", "0 stopping: it was asked to", "0 SIGTERM to 101",
			"8 killed", "8 SIGKILL to group 101", "8 SIGKILL to 101", "8 exited signal 9 request", "8 restarting 1 request", "8 started 102")
		st.die(0)
	})
}

func TestRestartWhilePreparing(t *testing.T) {
	o := container()
	o.Before = []string{"migrate"}
	t.Run("starts it", func(t *testing.T) {
		play(t, o, func(st *stage) {
			q := st.restart()
			st.after(s)
			q.waits()
			st.die(0)
			q.answered(nil)
			st.told("0 preparing 101", "1 started 102")
			st.die(3) // which nobody asked for
			st.told("1 exited code 3 exit spinning", "1 backing off 100ms")
			st.after(20 * s)
			st.die(0)
		})
	})
	t.Run("its failure", func(t *testing.T) {
		play(t, o, func(st *stage) {
			q := st.restart()
			st.die(4)
			q.answered(ErrEnding)
			st.ended(4)
		})
	})
	t.Run("stopped", func(t *testing.T) {
		play(t, o, func(st *stage) {
			q := st.restart()
			stop := st.stop(0)
			st.restart().answered(ErrEnding)
			st.die(143)
			q.answered(ErrEnding)
			stop.answered(nil)
		})
	})
	t.Run("its leftovers are being ended", func(t *testing.T) {
		play(t, o, func(st *stage) {
			st.left = []*remnant{{stage: st}}
			st.die(0)
			q := st.restart()
			st.left[0].dead = true
			st.sigchld()
			q.answered(nil)
			st.forget()
			st.die(3) // the first run was not a forced restart, nor is its crash one
			st.told("0 exited code 3 exit spinning", "0 backing off 100ms")
			st.after(20 * s)
			st.die(0)
		})
	})
}

func TestRestartWhileClearing(t *testing.T) {
	o := container()
	o.Policy.When = Never
	play(t, o, func(st *stage) {
		st.left = []*remnant{{stage: st}}
		st.die(1)
		q := st.restart()
		q.waits()
		st.left[0].dead = true
		st.sigchld()
		q.answered(nil)
		st.told("0 started 101", "0 leftovers chrome (77)", "0 SIGTERM to leftover", "0 exited code 1 exit", "0 restarting 1 exit", "0 started 102")
		st.die(0)
	})
}

func TestRestartInBackoff(t *testing.T) {
	o := container()
	o.Policy.SpinSleepTime = time.Minute
	play(t, o, func(st *stage) {
		st.die(1)
		st.after(s)
		st.restart().answered(nil)
		st.told("0 started 101", "0 exited code 1 exit spinning", "0 backing off 1m0s", "1 restarting 1 exit", "1 started 102")
		st.after(2 * time.Minute) // the pause that was cut short starts nothing
		st.told("2 ready")
		st.die(0)
	})
}

func TestRestartThatFails(t *testing.T) {
	play(t, container(), func(st *stage) {
		missing := &reaper.StartError{Name: "node", What: "run", Err: syscall.ENOENT, Exec: true}
		st.failures = []error{missing}
		q := st.restart()
		st.die(143)
		q.answered(missing)
		st.forget()
		st.failures = []error{missing}
		st.restart().answered(missing)
		st.after(20 * s) // it is tried again as after any failure
		if s := st.app.Snapshot(); s.State != StateRunning {
			t.Errorf("snapshot %+v", s)
		}
		st.die(0)
	})
}

// Who asks for a restart sees it in the next snapshot.
func TestAnswerShowsTheRun(t *testing.T) {
	a := New(container(), nil, nil)
	done := make(chan error, 1)
	a.waiting, a.snap.LastPID = append(a.waiting, done), 7
	a.answer(nil)
	if <-done; a.Snapshot().LastPID != 7 {
		t.Error("the snapshot is that of before the restart")
	}
}

func TestStopEndsRestart(t *testing.T) {
	play(t, container(), func(st *stage) {
		restart := st.restart()
		stop := st.stop(0)
		restart.answered(ErrEnding)
		st.restart().answered(ErrEnding)
		stop.waits()
		st.die(143)
		stop.answered(nil)
		st.told("0 started 101", "0 stopping: it was asked to", "0 SIGTERM to 101", "0 exited signal 15 request", "0 stopped 143")
		// Nobody is left waiting by requests that come late.
		st.restart().answered(ErrEnding)
		st.stop(0).answered(nil)
		st.ask(func(ctx context.Context) error { return st.app.Signal(ctx, syscall.SIGUSR2, "it was asked to") }).answered(ErrEnding)
	})
}

func TestStopByRequest(t *testing.T) {
	for name, c := range map[string]struct {
		by   syscall.Signal
		kill syscall.Signal // Options.KillSignal
		want string
	}{
		"as usual":        {0, 0, "0 SIGTERM to 101"},
		"--kill-signal":   {0, syscall.SIGINT, "0 SIGINT to 101"},
		"by a signal":     {syscall.SIGQUIT, syscall.SIGINT, "0 SIGQUIT to 101"},
		"by SIGKILL":      {syscall.SIGKILL, 0, "0 SIGKILL to 101,0 killed,0 SIGKILL to group 101,0 SIGKILL to 101"},
		"not rewritten":   {syscall.SIGHUP, 0, "0 SIGHUP to 101"},
		"a second is not": {0, 0, "0 SIGTERM to 101"},
	} {
		t.Run(name, func(t *testing.T) {
			o := container()
			o.KillSignal = c.kill
			o.Rewrite = map[syscall.Signal]syscall.Signal{syscall.SIGHUP: 0, syscall.SIGTERM: 0}
			play(t, o, func(st *stage) {
				q := st.stop(c.by)
				if name == "a second is not" {
					st.stop(syscall.SIGINT)
				}
				st.told(append([]string{"0 started 101", "0 stopping"}, strings.Split(c.want, ",")...)...)
				q.waits()
				st.die(0)
				q.answered(nil)
				st.ended(0)
			})
		})
	}
}

func TestStopByRequestInEachState(t *testing.T) {
	t.Run("backoff", func(t *testing.T) {
		o := container()
		o.Policy.SpinSleepTime = time.Minute
		play(t, o, func(st *stage) {
			st.die(7)
			st.stop(0).answered(nil)
			st.ended(7)
		})
	})
	t.Run("clearing", func(t *testing.T) {
		play(t, container(), func(st *stage) {
			st.left = []*remnant{{stage: st}}
			st.die(7)
			q := st.stop(syscall.SIGKILL)
			q.waits()
			st.left[0].dead = true
			st.sigchld()
			q.answered(nil)
			st.ended(7)
		})
	})
	t.Run("stopping, to be started again", func(t *testing.T) {
		play(t, container(), func(st *stage) {
			st.restart()
			q := st.stop(syscall.SIGKILL)
			st.die(137)
			q.answered(nil)
			st.ended(137)
		})
	})
	t.Run("preparing", func(t *testing.T) {
		o := container()
		o.Before = []string{"migrate"}
		play(t, o, func(st *stage) {
			q := st.stop(syscall.SIGINT)
			st.told("0 preparing 101", "0 stopping", "0 SIGINT to 101")
			st.die(130)
			q.answered(nil)
			st.ended(130)
		})
	})
}

func TestSignalByRequest(t *testing.T) {
	signal := func(st *stage, by syscall.Signal) error {
		q := st.ask(func(ctx context.Context) error { return st.app.Signal(ctx, by, "it was asked to") })
		return <-q.answer
	}
	o := container()
	o.Rewrite = map[syscall.Signal]syscall.Signal{syscall.SIGUSR2: syscall.SIGHUP}
	o.Policy.SpinSleepTime = time.Minute
	play(t, o, func(st *stage) {
		if err := signal(st, syscall.SIGUSR2); err != nil {
			t.Error(err)
		}
		if err := signal(st, syscall.SIGTERM); err != nil { // means nothing to evermore
			t.Error(err)
		}
		st.told("0 started 101", "0 SIGUSR2 to 101", "0 SIGTERM to 101")
		st.die(143) // by that: not spinning, started again
		st.told("0 exited signal 15 request", "0 restarting 1 request", "0 started 102")

		st.killErr = syscall.EPERM
		if err := signal(st, syscall.SIGHUP); err == nil || !strings.Contains(err.Error(), signals.Name(syscall.SIGHUP)) {
			t.Errorf("got %v", err)
		}
		st.killErr = nil
		st.forget()
		st.die(129) // by a signal that was not sent from here
		st.told("0 exited signal 1 signal spinning", "0 backing off 1m0s")
		if err := signal(st, syscall.SIGUSR2); err == nil || err.Error() != "the app is not running" {
			t.Errorf("in a pause: %v", err)
		}
		st.stop(0)
	})
}

// Who goes away is not waited for, and what was asked for happens.
func TestRequestsOfThoseWhoVanish(t *testing.T) {
	play(t, container(), func(st *stage) {
		q := st.restart()
		q.cancel()
		q.answered(context.Canceled)
		st.die(143)
		if s := st.app.Snapshot(); s.PID != 102 {
			t.Errorf("snapshot %+v", s)
		}
		q = st.stop(0)
		q.cancel()
		q.answered(context.Canceled)
		st.die(143)
		st.ended(143)
	})
}

// A loop that does not answer, here one that does not run, holds up nobody whose
// time is over.
func TestRequestsOfHungLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(container(), nil, nil)
		ctx, cancel := context.WithTimeout(t.Context(), s)
		defer cancel()
		for _, err := range []error{a.Restart(ctx, ReasonRequest, ""), a.Stop(ctx, 0), a.Signal(ctx, syscall.SIGHUP, "it was asked to")} {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestFaultIsFailure(t *testing.T) {
	for name, test := range map[string]struct {
		ended Ended
		want  Decision
	}{
		"exit 0 by itself":          {Ended{Uptime: time.Hour}, Done{}},
		"exit 0 after a fault":      {Ended{Uptime: time.Hour, Fault: true}, Restart{}},
		"a stop code":               {Ended{Uptime: time.Hour, Exit: reaper.Exit{Code: 3}}, Done{}},
		"a stop code after a fault": {Ended{Uptime: time.Hour, Exit: reaper.Exit{Code: 3}, Fault: true}, Restart{}},
		"a signal of that number":   {Ended{Uptime: time.Hour, Exit: reaper.Exit{Code: 3, Signal: 9}}, Restart{}},
		"another code":              {Ended{Uptime: time.Hour, Exit: reaper.Exit{Code: 4}}, Restart{}},
		"a stop code, but forced":   {Ended{Exit: reaper.Exit{Code: 3}, Forced: true}, Restart{}},
		"a stop code on request":    {Ended{Exit: reaper.Exit{Code: 3}, Requested: true}, Done{}},
	} {
		t.Run(name, func(t *testing.T) {
			p := Policy{When: OnFailure, MinUptime: s, StopCodes: []int{2, 3}}
			if got, _ := p.Next(test.ended, History{}, 0); got != test.want {
				t.Errorf("got %#v, want %#v", got, test.want)
			}
		})
	}
}

func TestAdopt(t *testing.T) {
	adopting := func(o Options, ago time.Duration) Options {
		o.Adopt = &reaper.Adoption{PID: 77, StartTime: 1, StartedAt: time.Now().Add(-ago).Round(0)}
		return o
	}
	t.Run("its exit is unknown", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := container()
			o.Policy.StopCodes = []int{1} // is not what unknown means
			st := newStage(t)
			st.begin(adopting(o, time.Hour))
			if s := st.app.Snapshot(); s.PID != 77 || s.Starts != 1 || s.Restarts != 0 || time.Since(s.StartedAt) != time.Hour {
				t.Errorf("snapshot %+v", s)
			}
			st.dead = append(st.dead, reaper.Exit{PID: 77, Code: 1, Unknown: true, At: time.Now()})
			st.sigchld()
			st.told("0 started 77", "0 exited code unknown exit", "0 restarting 1 exit", "0 started 101")
			st.die(0)
			st.ended(0)
		})
	})
	t.Run("its exit is known", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			st := newStage(t)
			st.begin(adopting(container(), s))
			st.die(3)
			st.told("0 started 77", "0 exited code 3 exit spinning", "0 backing off 100ms")
			st.stop(0)
			st.ended(3)
		})
	})
	t.Run("it is gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			st := newStage(t)
			o := adopting(container(), s)
			o.Adopt.PID = 0
			st.begin(o)
			<-st.done
			if st.code != 1 || !errors.Is(st.err, reaper.ErrGone) {
				t.Errorf("got %d, %v", st.code, st.err)
			}
			st.told()
			st.stop(0).answered(nil)
		})
	})
	t.Run("it has run too long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := container()
			o.MaxRunTime = time.Minute
			st := newStage(t)
			st.begin(adopting(o, time.Hour))
			st.told("0 started 77", "0 stopping: it has run for 1m0s", "0 SIGTERM to 77")
			st.die(0)
			st.stop(0)
			st.die(0)
			st.ended(0)
		})
	})
	t.Run("it began in the future", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := container()
			o.MaxRunTime = time.Minute
			st := newStage(t)
			st.begin(adopting(o, -time.Hour)) // the clock was set
			st.after(59 * s)
			st.forget()
			st.after(s)
			st.told("60 stopping: it has run for 1m0s", "60 SIGTERM to 77")
			st.die(0)
			st.stop(0)
			st.die(0)
			st.ended(0)
		})
	})
}
