package pid1

import (
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestMaxMemory(t *testing.T) {
	o := container()
	o.MaxMemory = 100 << 20
	play(t, o, func(st *stage) {
		st.memory.Store(100 << 20) // as much as it may
		st.after(time.Hour)
		st.told("0 started 101", "1 ready")
		st.memory.Store(250 << 20)
		st.after(5 * s)
		st.told("3605 stopping: it uses 250 MB of memory, more than 100 MB", "3605 SIGTERM to 101")
		st.memory.Store(1 << 20)
		st.after(s)
		st.die(0) // a failure all the same, and one that the limits count
		st.told("3606 exited code 0 memory", "3606 restarting 1 memory", "3606 started 102")
		if snap := st.app.Snapshot(); snap.RestartsRemaining != 4 {
			t.Errorf("snapshot %+v", snap)
		}

		// One that takes too much at once is spinning.
		st.memory.Store(250 << 20)
		st.after(5 * s)
		st.die(143)
		st.told("3607 ready", "3611 stopping: it uses 250 MB of memory, more than 100 MB", "3611 SIGTERM to 102",
			"3611 exited signal 15 memory spinning", "3611 backing off 100ms")

		// It is looked at no more while the app is down, or is being ended.
		st.memory.Store(0)
		st.after(s)
		st.memory.Store(250 << 20)
		st.signal(syscall.SIGTERM)
		st.forget()
		st.after(7 * s)
		st.told()
		st.die(0)
		st.ended(0)
	})
}

func TestMaxMemoryWithoutRestart(t *testing.T) {
	o := container()
	o.MaxMemory, o.Policy.When = 1<<20, Never
	play(t, o, func(st *stage) {
		st.memory.Store(2 << 20)
		st.after(20 * s)
		st.told("0 started 101", "1 ready", "5 stopping: it uses 2 MB of memory, more than 1 MB", "5 SIGTERM to 101", "13 killed", "13 SIGKILL to group 101", "13 SIGKILL to 101",
			"18 warning: process 101 is still there 5s after SIGKILL: it hangs in the kernel")
		st.die(137)
		st.ended(137)
	})
}

// Only a limit is looked after: without one nothing wakes the loop.
func TestWithoutLimitsNothingIsTimed(t *testing.T) {
	play(t, container(), func(st *stage) {
		st.after(time.Hour)
		for name, timer := range map[string]*timer{"memory": &st.app.memory, "run time": &st.app.runTime, "schedule": &st.app.scheduled, "hooks": &st.app.hookTimer} {
			if timer.t != nil {
				t.Errorf("the timer of %s was set", name)
			}
		}
		st.die(0)
	})
}

func TestMaxRunTime(t *testing.T) {
	o := container()
	o.MaxRunTime, o.Policy.When = 5*s, Never
	play(t, o, func(st *stage) {
		for range 3 {
			st.forget()
			st.after(5 * s)
			st.die(143)
		}
		// Not spinning although shorter than MinUptime, and no policy is asked.
		st.told("11 ready", "15 stopping: it has run for 5s", "15 SIGTERM to 103", "15 exited signal 15 request", "15 restarting 3 request", "15 started 104")
		st.after(4 * s)
		st.die(0)
		st.ended(0)
	})
}

func TestSchedule(t *testing.T) {
	every := func(d time.Duration) func(time.Time) time.Time {
		return func(now time.Time) time.Time { return now.Truncate(d).Add(d) } // as cron's
	}
	t.Run("each time", func(t *testing.T) {
		o := container()
		o.Schedule = every(24 * time.Hour)
		play(t, o, func(st *stage) { // synctest begins at midnight
			st.after(24*time.Hour - ms)
			st.told("0 started 101", "1 ready")
			st.after(ms)
			st.told("86400 stopping: it is due", "86400 SIGTERM to 101")
			st.die(0)
			st.told("86400 exited code 0 request", "86400 restarting 1 request", "86400 started 102")
			st.after(24 * time.Hour)
			st.told("86401 ready", "172800 stopping: it is due", "172800 SIGTERM to 102")
			st.signal(syscall.SIGTERM)
			st.die(0)
			st.ended(0)
		})
	})
	t.Run("a moment while it is down is over", func(t *testing.T) {
		o := container()
		o.Schedule = every(time.Hour)
		o.Policy.SpinSleepTime = 2 * time.Minute
		play(t, o, func(st *stage) {
			st.after(time.Hour - s)
			st.die(1)
			st.after(time.Minute)
			st.die(1) // spinning: it is down when the hour is full
			st.forget()
			st.after(30 * time.Minute)
			if snap := st.app.Snapshot(); snap.State != StateRunning || snap.Restarts != 2 {
				t.Errorf("snapshot %+v", snap)
			}
			st.after(28*time.Minute + 59*s)
			st.forget()
			st.after(2 * s)
			st.told("7200 stopping: it is due", "7200 SIGTERM to 103")
			st.die(0)
			st.signal(syscall.SIGTERM)
			st.die(0)
		})
	})
	t.Run("so many hours after each start", func(t *testing.T) {
		o := container()
		o.Schedule = func(now time.Time) time.Time { return now.Add(150 * time.Minute) } // as cron's @every
		play(t, o, func(st *stage) {
			st.after(149 * time.Minute)
			st.forget()
			st.after(time.Minute)
			st.told("9000 stopping: it is due", "9000 SIGTERM to 101")
			st.die(0)
			st.signal(syscall.SIGTERM)
			st.die(0)
		})
	})
	t.Run("never", func(t *testing.T) {
		o := container()
		o.Schedule = func(time.Time) time.Time { return time.Time{} }
		play(t, o, func(st *stage) {
			st.after(1000 * time.Hour)
			st.told("0 started 101", "1 ready")
			st.die(0)
		})
	})
	t.Run("the clock is set back", func(t *testing.T) {
		// The bubble's clock cannot be set; what the schedule says of it can.
		o := container()
		var back atomic.Bool
		o.Schedule = func(now time.Time) time.Time {
			if back.Load() {
				return now.Truncate(time.Hour).Add(90 * time.Minute)
			}
			return now.Add(10 * 365 * 24 * time.Hour)
		}
		play(t, o, func(st *stage) {
			st.after(30 * time.Minute)
			back.Store(true)
			st.after(30*time.Minute + s)
			st.told("0 started 101", "1 ready")
			st.after(90 * time.Minute)
			st.told("9000 stopping: it is due", "9000 SIGTERM to 101")
			st.die(0)
			st.signal(syscall.SIGTERM)
			st.die(0)
		})
	})
}
