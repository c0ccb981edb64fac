// Package early starts the app of a plain ENTRYPOINT, "evermore -- COMMAND",
// before the rest of the program is initialized: that alone takes longer than
// everything else that evermore does until then.
//
// Go initializes packages one after the other, in the order of their paths, each
// as soon as all that it imports is initialized (the Go specification, "Program
// initialization"; the order by path since Go 1.21). What this package imports
// comes before google.golang.org/protobuf, and so before net and client_golang;
// a test holds that it stays so.
//
// It does what the command line would do and no more: where anything is asked
// for, it leaves the start to it.
package early

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"evermore/reaper"
	"evermore/signals"
)

// Start is a start that has been made.
type Start struct {
	Catcher *signals.Catcher
	Reaper  *reaper.Reaper
	Process *reaper.Process
	Err     error // a *reaper.StartError: there is no Process
}

// First is the start that was made when the program began; nil: none.
var First = begin(os.Args, os.Environ())

// begin makes the start if there is nothing to consider.
func begin(args, env []string) *Start {
	c, ok := Command(args, env)
	if !ok || hasTerminal() {
		return nil // a terminal's signals are shared
	}
	s := &Start{}
	var err error
	if s.Catcher, err = signals.Catch(signals.Forwarding(signals.Stop, nil)); err != nil {
		return nil // the command line will find it out, and say it
	}
	if s.Reaper, err = reaper.New(); err != nil {
		s.Catcher.Close()
		return nil
	}
	KeepThreads()
	if s.Process, s.Err = s.Reaper.Start(c); s.Err == nil {
		_ = s.Catcher.SetTarget(s.Process.PIDFD())
	}
	return s
}

// Command is what the command line makes of args and env when COMMAND is all that
// was given: no option, and no variable that is one or that is kept from the app.
func Command(args, env []string) (c reaper.Command, ok bool) {
	if len(args) < 3 || args[1] != "--" || args[2] == "" {
		return c, false
	}
	for _, e := range env {
		for _, own := range []string{"EVERMORE_", "NOTIFY_SOCKET=", "WATCHDOG_", "LISTEN_"} {
			if strings.HasPrefix(e, own) && !strings.HasPrefix(e, reaper.RunID+"=") && !strings.HasPrefix(e, "EVERMORE_ROOT=") {
				return c, false
			}
		}
	}
	return reaper.Command{
		Argv: args[2:], Env: env, Files: []uintptr{0, 1, 2},
		OwnGroup: true, EndGroup: true, DieWithParent: true,
	}, true
}

func hasTerminal() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}
