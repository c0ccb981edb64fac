package pid1

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"evermore/reaper"
)

func hooked() Options {
	o := container()
	o.OnExit, o.UID = []string{"tell", "me"}, "web"
	o.Command = reaper.Command{Argv: []string{"node"}, Env: []string{"A=1"}, Dir: "/app"}
	return o
}

// told gives what the last command was told by its environment.
func (st *stage) toldHook(c reaper.Command) string {
	var told []string
	for _, e := range c.Env {
		if name, ok := strings.CutPrefix(e, "EVERMORE_EXIT_"); ok {
			told = append(told, name)
		}
	}
	return strings.Join(told, " ")
}

func TestHook(t *testing.T) {
	play(t, hooked(), func(st *stage) {
		st.after(20*s + 5*ms)
		st.exit(101, 3) // the hook is 102, the next run 103
		st.after(s)
		st.exit(102, 0)
		st.after(20 * s)
		st.exit(103, 139)
		st.exit(104, 7)
		st.after(3 * s)
		st.exit(105, 0)
		st.told("0 started 101", "1 ready", "20.005 exited code 3 exit", "20.005 restarting 1 exit", "20.005 started 103", "21.005 ready",
			"41.005 exited signal 11 signal", "41.005 restarting 2 signal", "41.005 started 105",
			"41.005 warning: the command of --on-exit failed: code 7", "42.005 ready", "44.005 exited code 0 exit spinning", "44.005 stopped 0")
		st.after(2 * s)
		select {
		case <-st.done:
			t.Error("evermore has not waited for the last hook")
		default:
		}
		st.exit(106, 0)
		st.ended(0)

		app, hooks := st.commands[0], []reaper.Command{st.commands[1], st.commands[3], st.commands[5]}
		for i, want := range []string{
			"UID=web CODE=3 SIGNAL= REASON=exit UPTIME_MS=20005 PID=101 RESTARTS=0",
			"UID=web CODE= SIGNAL=SIGSEGV REASON=signal UPTIME_MS=21000 PID=103 RESTARTS=1",
			"UID=web CODE=0 SIGNAL= REASON=exit UPTIME_MS=3000 PID=105 RESTARTS=2",
		} {
			if got := st.toldHook(hooks[i]); got != want {
				t.Errorf("hook %d was told\n%s, want\n%s", i, got, want)
			}
		}
		h := hooks[0]
		if !slices.Equal(h.Argv, []string{"tell", "me"}) || h.Dir != app.Dir || h.Env[0] != "A=1" || !h.OwnGroup || !h.EndGroup || !h.DieWithParent {
			t.Errorf("the hook is %+v", h)
		}
		if got := st.toldHook(st.commands[2]); got != "" {
			t.Errorf("the app was told %q", got)
		}
	})
}

func TestHookOfUnknownExit(t *testing.T) {
	play(t, hooked(), func(st *stage) {
		st.dead = []reaper.Exit{{PID: 101, Code: 1, Unknown: true, At: time.Now()}}
		st.sigchld()
		if got := st.toldHook(st.commands[1]); !strings.Contains(got, "CODE=unknown SIGNAL= ") {
			t.Errorf("it was told %q", got)
		}
		st.signal(syscall.SIGTERM) // in the pause: the hook is the last thing
		st.exit(102, 0)
		st.ended(1)
	})
}

func TestHookThatCannotRun(t *testing.T) {
	o := hooked()
	o.Policy.When = Never
	play(t, o, func(st *stage) {
		st.failures = []error{&reaper.StartError{Name: "tell", What: "run", Err: syscall.ENOENT, Exec: true}}
		st.die(3)
		st.told("0 started 101", "0 exited code 3 exit spinning", `0 warning: --on-exit: cannot run "tell": no such file or directory`, "0 stopped 3")
		st.ended(3)
	})
}

func TestHookThatHangs(t *testing.T) {
	o := hooked()
	o.Policy.When = Never
	t.Run("is killed", func(t *testing.T) {
		play(t, o, func(st *stage) {
			st.die(3)
			st.after(10 * s)
			st.told("0 started 101", "0 exited code 3 exit spinning", "0 stopped 3",
				"10 warning: the command of --on-exit did not end in 10s: killed", "10 SIGKILL to group 102")
			st.exit(102, 137) // nothing more is to be said of it
			st.told()
			st.ended(3)
		})
	})
	t.Run("in the kernel", func(t *testing.T) {
		play(t, o, func(st *stage) {
			st.die(3)
			st.after(10 * s)
			st.forget()
			st.after(5 * s)
			st.told("15 warning: the command of --on-exit is still there 5s after SIGKILL: it hangs in the kernel")
			st.ended(3)
		})
	})
	t.Run("a signal ends the waiting", func(t *testing.T) {
		play(t, o, func(st *stage) {
			st.die(3)
			st.after(s)
			st.signal(syscall.SIGTERM)
			st.ended(3)
		})
	})
	t.Run("a request does, too", func(t *testing.T) {
		play(t, o, func(st *stage) {
			st.die(3)
			st.restart().answered(ErrEnding)
			st.stop(0).answered(nil)
			st.ended(3)
		})
	})
	t.Run("in the kernel, while the app goes on", func(t *testing.T) {
		o := hooked()
		o.Policy.MinUptime = 0
		play(t, o, func(st *stage) {
			st.exit(101, 1) // hook 102, run 103
			st.after(time.Hour)
			st.forget()
			st.signal(syscall.SIGTERM)
			st.exit(103, 0) // hook 104
			st.exit(104, 0)
			st.ended(0) // 102 is not waited for
		})
	})
}

// Each has its own time, whatever becomes of the others.
func TestHooksAtATime(t *testing.T) {
	o := hooked()
	o.Policy.MinUptime, o.Policy.MaxRestarts = 0, Rate{}
	play(t, o, func(st *stage) {
		for i := range 5 { // runs 101, 103, 105, 107, 109; hooks 102, 104, 106, 108
			st.exit(101+2*i, 1)
			st.after(2 * s)
		}
		st.exit(104, 0)
		st.forget()
		st.after(9 * s) // 19 s
		st.told("14 warning: the command of --on-exit did not end in 10s: killed", "14 SIGKILL to group 106",
			"15 warning: the command of --on-exit is still there 5s after SIGKILL: it hangs in the kernel",
			"16 warning: the command of --on-exit did not end in 10s: killed", "16 SIGKILL to group 108",
			"19 warning: the command of --on-exit is still there 5s after SIGKILL: it hangs in the kernel")
		st.exit(102, 137)
		st.exit(106, 137)
		st.exit(108, 137)
		st.forget()
		st.signal(syscall.SIGTERM)
		st.exit(110, 0)
		st.exit(111, 0)
		st.ended(0)
	})
}

func TestHooksAreBounded(t *testing.T) {
	o := hooked()
	o.Policy.MinUptime, o.Policy.MaxRestarts = 0, Rate{}
	play(t, o, func(st *stage) {
		for i := range 4 {
			st.exit(101+2*i, 1)
		}
		st.forget()
		st.exit(109, 1)
		st.told("0 exited code 1 exit", "0 warning: no --on-exit for this exit: 4 of them run already", "0 restarting 5 exit", "0 started 110")
		// All that are there at the end have their time, and no more.
		st.signal(syscall.SIGTERM)
		st.exit(110, 0)
		st.after(10 * s)
		for _, pid := range []int{108, 104, 106} {
			st.exit(pid, 137)
		}
		select {
		case <-st.done:
			t.Error("evermore has not waited for the fourth")
		default:
		}
		st.after(5 * s)
		st.ended(0)
	})
}

// A run that hung in the kernel and was given up may end while a hook runs: the
// end is over.
func TestEndOfWhatWasGivenUp(t *testing.T) {
	o := hooked()
	o.Policy.MinUptime = 0
	play(t, o, func(st *stage) {
		st.exit(101, 1) // hook 102, run 103
		st.signal(syscall.SIGTERM)
		st.signal(syscall.SIGINT)
		st.after(5 * s)
		st.forget()
		st.exit(103, 137)
		st.told()
		st.exit(102, 0)
		st.ended(137)
	})
}
