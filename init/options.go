package pid1

import (
	"errors"
	"fmt"
	"net/url"
	"syscall"
	"time"

	"evermore/reaper"
	"evermore/signals"
)

// Options is all that one app's life depends on. The zero value of a field is
// what its comment says; defaults that differ between the two doors are set in
// one place, cli's table of options.
type Options struct {
	// Command is what is run. Path may be a bare name: it is looked up in the
	// PATH of its Env before every start, as execvp(3) does.
	Command reaper.Command
	// Before, when not empty, is a command that runs to its end, in the place of
	// Command, before Command's first start; unless it exits with 0, its exit is
	// the end.
	Before []string

	// Adopt, when not nil, is the process of the first run: it is there already.
	Adopt *reaper.Adoption
	// Refresh, when not nil, brings Command up to date before each start. Where it
	// fails Command stays as it was.
	Refresh func(*reaper.Command) error
	// MustStart has the first start fail, too, where there is no room for a process.
	MustStart bool
	// OnExit, when not empty, is a command that runs after each exit, with
	// EVERMORE_EXIT_UID, _CODE, _SIGNAL, _REASON, _UPTIME_MS, _PID and _RESTARTS in
	// its environment. It may take 10 s.
	OnExit []string
	// Explain, when not nil, gives what the app itself has left behind about its
	// end: a process of that pid, which failed and which evermore did not end. It
	// may take a second, and may give nil.
	Explain func(pid int) *Report
	// UID is what OnExit is told that the app is called.
	UID string

	Policy Policy
	// MaxMemory is the resident memory in bytes above which the app is started
	// anew. 0: no limit.
	MaxMemory int64
	// MaxRunTime is how long a run may last before it is started anew. 0: for ever.
	MaxRunTime time.Duration
	// Schedule, when not nil, gives the next moment after the given one at which
	// the app is started anew; the zero time: never.
	Schedule func(time.Time) time.Time

	// KillSignal is sent to end the command. 0: the stop signal that arrived,
	// and SIGTERM where none did.
	KillSignal syscall.Signal
	// KillTimeout is how long the command may take to end before SIGKILL.
	// 0: for ever.
	KillTimeout time.Duration
	// DrainWait is how long a run that a stop has been asked for goes on, not ready
	// any more, before it is told to end, so that who sends it work has time to
	// learn of it.
	DrainWait time.Duration
	// KillTree ends what a dead command leaves behind: the rest of its process
	// group and descendants that carry its run id.
	KillTree bool
	// SignalGroup sends signals to the command's process group.
	SignalGroup bool
	// StopSignals are the signals that mean "stop".
	StopSignals signals.Set
	// Rewrite maps a signal that arrives to the one that is sent; 0 drops it,
	// and its meaning with it.
	Rewrite map[syscall.Signal]syscall.Signal
	// RemapExit maps the exit code of the command to that of evermore.
	RemapExit map[int]int
	// Terminal says that the command shares evermore's process group, a job of the
	// terminal on stdin.
	Terminal bool

	// Link, when not nil, is a line to the app's processes.
	Link Link
	// HangTimeout is how long the app's event loop may leave a ping of the Link
	// unanswered before it is started anew. 0: for ever.
	HangTimeout time.Duration
	// HangStack has it found out first where it hangs.
	HangStack bool

	Ready Readiness
	// LiveTimeout is how long the app may be neither ready nor in back-off
	// before /livez fails. 0: for ever.
	LiveTimeout time.Duration
	// Watchdog is the longest silence between two WATCHDOG=1 messages of an app
	// that speaks sd_notify(3). 0: no watchdog, unless the app asks for one by
	// WATCHDOG_USEC.
	Watchdog time.Duration
}

// ReadyBy says what makes the app ready.
type ReadyBy int

const (
	// ReadyUptime: the app has been up for a second.
	ReadyUptime ReadyBy = iota
	// ReadyNotify: the app says READY=1 as in sd_notify(3).
	ReadyNotify
	// ReadyURL: an HTTP GET of URL answers 2xx or 3xx.
	ReadyURL
	// ReadyListening: the app listens, by what its Link tells.
	ReadyListening
	// ReadyMessage: the app says so by pm2's process.send("ready"), on its Link.
	ReadyMessage
)

// Readiness is how the app's readiness is known.
type Readiness struct {
	By  ReadyBy
	URL string // with ReadyURL
}

// ParseReadiness reads "uptime", "listening", "message", "notify" or an http(s) URL.
func ParseReadiness(s string) (Readiness, error) {
	switch s {
	case "uptime":
		return Readiness{By: ReadyUptime}, nil
	case "notify":
		return Readiness{By: ReadyNotify}, nil
	case "listening":
		return Readiness{By: ReadyListening}, nil
	case "message":
		return Readiness{By: ReadyMessage}, nil
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return Readiness{}, fmt.Errorf("cannot read %q as a readiness: use uptime, listening, message, notify or a URL such as http://127.0.0.1:3000/health", s)
	}
	return Readiness{By: ReadyURL, URL: s}, nil
}

// Validate reports the first contradiction among the options.
func (o *Options) Validate() error {
	if len(o.Command.Argv) == 0 {
		return errors.New("no command to run")
	}
	if o.KillTimeout < 0 {
		return errors.New("the kill time-out is negative")
	}
	if o.DrainWait < 0 {
		return errors.New("the drain time is negative")
	}
	if o.LiveTimeout < 0 {
		return errors.New("the live time-out is negative")
	}
	if o.HangTimeout < 0 {
		return errors.New("the hang time-out is negative")
	}
	if o.Watchdog < 0 {
		return errors.New("the watchdog time is negative")
	}
	for code, to := range o.RemapExit {
		if code < 0 || code > 255 || to < 0 || to > 255 {
			return fmt.Errorf("cannot map exit code %d to %d: codes are 0 to 255", code, to)
		}
	}
	return o.Policy.Validate()
}
