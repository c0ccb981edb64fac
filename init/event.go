package pid1

import (
	"syscall"
	"time"

	"evermore/reaper"
)

// Reason says why a run of the app ended, or why it is started again. The set
// is closed: it is the label of evermore_child_restarts_total and
// evermore_child_exits_total.
type Reason string

const (
	ReasonExit      Reason = "exit"      // it exited by itself
	ReasonException Reason = "exception" // an uncaught JavaScript exception
	ReasonHeap      Reason = "heap"      // node's own heap was exhausted
	ReasonSignal    Reason = "signal"    // a signal that evermore did not send
	ReasonOOM       Reason = "oom"       // the kernel's out-of-memory killer
	ReasonHang      Reason = "hang"      // its event loop did not answer
	ReasonWatchdog  Reason = "watchdog"  // it stopped saying WATCHDOG=1
	ReasonMemory    Reason = "memory"    // it grew over its memory limit
	ReasonWatch     Reason = "watch"     // a watched file changed
	ReasonRequest   Reason = "request"   // somebody asked for it
	ReasonReload    Reason = "reload"    // a new process took its place
	ReasonSpawn     Reason = "spawn"     // it could not be started
	ReasonLost      Reason = "lost"      // evermore ended with it: nobody saw how
)

// Reasons lists every Reason.
func Reasons() []Reason {
	return []Reason{
		ReasonExit, ReasonException, ReasonHeap, ReasonSignal, ReasonOOM, ReasonHang,
		ReasonWatchdog, ReasonMemory, ReasonWatch, ReasonRequest, ReasonReload, ReasonSpawn, ReasonLost,
	}
}

// State is where an app is in its life.
type State string

const (
	StatePreparing State = "preparing" // the command of --before runs
	StateRunning   State = "running"   // the app runs
	StateClearing  State = "clearing"  // the app is dead, its leftovers are being ended
	StateBackoff   State = "backoff"   // waiting for the next start
	StateStopping  State = "stopping"  // the app was told to end
	StateStopped   State = "stopped"   // the end
)

// States lists every State.
func States() []State {
	return []State{StatePreparing, StateRunning, StateClearing, StateBackoff, StateStopping, StateStopped}
}

// Event is one thing that happened. Fields that the kind does not name are zero.
type Event struct {
	Kind   Kind
	Time   time.Time
	Worker int // the number of the process in its pool, from 0 on

	PID      int           // the app's, or the process that the kind is about; of OOMKilled 0: the app was not among them
	Exit     reaper.Exit   // Exited, Restarting (of the last run), SpawnFailed (its Code is 127 or 126)
	Reason   Reason        // Exited, Restarting, SpawnFailed, Stopping, Stopped
	Uptime   time.Duration // Exited: how long that run lasted
	Spinning bool          // Exited: shorter than the least uptime
	Restarts int           // Restarting: how many restarts there were, this one included
	Counted  bool          // Restarting: Policy.MaxRestarts counts it
	Backoff  time.Duration // BackingOff: how long the next start waits
	Drain    time.Duration // Stopping: how long the app goes on before it is told; 0: it is told now
	Result   ReloadResult  // Reloaded
	Code     int           // GaveUp, Stopped: evermore's exit code
	Count    int           // OOMKilled: how many processes
	Death    *Death        // Exited

	Signal    syscall.Signal // Signalled, SignalSent, Killed
	SentAs    syscall.Signal // Signalled: what the app was sent; 0: nothing
	SenderPID int            // Signalled; 0: the kernel, or a process outside the pid namespace
	SenderUID int            // Signalled

	FromKernel   bool // Signalled
	FromTerminal bool // Signalled: the terminal sent it to the app, too

	ParentPID int    // ZombieFound: who does not reap it
	Name      string // ZombieFound: the parent's name; LeftoverKilled: its name
	Text      string // what a person should know beside it: GaveUp, Unready, Stopping, StatusTold, Noted
	Err       error  // SpawnFailed, Warned
}

// Kind is what an Event is about.
type Kind int

const (
	Preparing       Kind = iota // the command of --before runs
	Started                     // a run of the app began
	Ready                       // the app became ready
	Unready                     // the app is ready no more (while it is up)
	Exited                      // a run ended
	SpawnFailed                 // a run could not begin
	BackingOff                  // the next start waits
	Restarting                  // the next run begins now
	GaveUp                      // the policy ends it
	Stopping                    // the app is being ended
	Draining                    // the app is to finish what it has begun, and then to end
	Drained                     // the app is told to end now: SentAs
	HungAt                      // Text is the JavaScript stack of an app that hangs, a line a frame
	Reloading                   // a reload begins
	Replaced                    // a new process has taken the place of the one before; Restarts
	Reloaded                    // a reload is over: Uptime is how long it took; Err and Result say why it failed
	Scaled                      // Count is how many processes there are to be now
	Signalled                   // a signal arrived
	SignalSent                  // the app was sent a signal that was asked for; Text: why
	Killed                      // the app did not end in time: SIGKILL
	LeftoversEnding             // processes of a dead run are being ended
	LeftoversStuck              // and could not be
	OrphanReaped                // a process that evermore did not start, but adopted
	ZombieFound                 // a living parent does not reap its child
	OOMKilled                   // the kernel has killed processes of the control group for want of memory
	StatusTold                  // STATUS=... by sd_notify
	Noted                       // what is worth knowing
	Warned                      // something failed that does not end supervision
	Stopped                     // the end: Code is evermore's exit code
)

// Observer is told of every event, in order, by the goroutine that owns the
// state. It must not block.
type Observer interface {
	Observe(Event)
}

// Snapshot is what is true of an app at one moment. It is immutable.
type Snapshot struct {
	Worker    int // the number of the process in its pool, from 0 on
	State     State
	PID       int       // of the run; 0 while down
	StartedAt time.Time // of the run; zero while down
	// LastPID and LastStartedAt are those of the last run, also while down.
	LastPID       int
	LastStartedAt time.Time
	Ready         bool
	// NotReady is why, in a few words; empty when Ready.
	NotReady string
	Starts   int
	Restarts int
	// Spinning says that the last run ended before its least uptime and no run
	// has lasted since.
	Spinning bool
	// Backoff is the pause that is being waited for, BackoffUntil its end.
	Backoff      time.Duration
	BackoffUntil time.Time
	// RestartsRemaining is how many restarts the limits still allow; -1: no limit.
	RestartsRemaining int
	LastExit          reaper.Exit
	LastExitAt        time.Time // zero: no run has ended yet
	LastReason        Reason
	// UnkillableSince is when SIGKILL was sent to a process that is still
	// there; zero: none.
	UnkillableSince time.Time
	// UnreadySince is since when the app has been neither ready nor in
	// back-off; zero: it is one of them.
	UnreadySince time.Time
	Status       string // the last STATUS= of sd_notify
}
