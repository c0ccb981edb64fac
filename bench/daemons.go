package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// A host is a session whose PID 1 is no supervisor: it runs the command lines
// that a shell would, and what they leave behind ends with it.
type host struct {
	*session
	commands *os.File // to its stdin
	printed  *os.File // the stdout of all commands
}

// host makes one for the daemons of a peer, with what they share. They keep the
// program name with the report and args as its arguments. Whoever makes a host
// ends it.
func (l *lab) host(p peer, name string, args ...string) (*host, error) {
	s, err := l.newSession(p, name, args...)
	if err != nil {
		return nil, err
	}
	h := &host{session: s}
	s.job.name = "bench"
	if err := h.open(); err != nil {
		h.end()
		return nil, err
	}
	if p.ahead != "" {
		if _, err := h.command(p.client, p.ahead); err != nil {
			h.end()
			return nil, err
		}
	}
	return h, nil
}

func (h *host) open() (err error) {
	if h.report, err = openReport(h.reportPath()); err != nil {
		return err
	}
	if h.printed, err = os.OpenFile(h.job.dir+"/stdout", os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600); err != nil {
		return err
	}
	stdin, commands, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot make a pipe for commands: %w", err)
	}
	defer stdin.Close()
	h.commands = commands
	return h.launched([]string{h.lab.program("host"), h.reportPath()}, stdin, h.printed)
}

func (h *host) end() {
	h.session.end()
	for _, f := range []*os.File{h.commands, h.printed} {
		if f != nil {
			f.Close()
		}
	}
}

// command runs a command line until it returns.
func (h *host) command(argv ...string) (record, error) {
	got, err := h.commandUntil(argv)
	return got[returned], err
}

// commandUntil runs a command line until it has returned and the daemons'
// children have reported each of these kinds.
func (h *host) commandUntil(argv []string, of ...int64) (map[int64]record, error) {
	line := strings.Join(argv, "\x00") + "\x00\x00"
	if _, err := h.commands.WriteString(line); err != nil {
		return nil, h.explain(fmt.Errorf("cannot run %s: %w", argv[0], err))
	}
	got, err := h.report.each(patience, append(of, returned)...)
	if err != nil {
		return nil, h.explain(fmt.Errorf("%s: %w", strings.Join(argv, " "), err))
	}
	return got, nil
}

// daemon starts one and waits until its child has reported a kind, too.
func (h *host) daemon(kind int64) (map[int64]record, error) {
	argv, err := h.peer.daemon(h.peer, h.job)
	if err != nil {
		return nil, err
	}
	return h.commandUntil(argv, kind)
}

func keepsDaemons(p peer) bool { return p.daemon != nil }

const daemonRounds = 100

// measureDaemonStart: the fork of the command line that starts a daemon until it
// has returned, and until the first instruction of the daemon's child.
func measureDaemonStart(l *lab) {
	l.rounds("daemon start", daemonRounds, keepsDaemons, func(p peer, keep bool) error {
		h, err := l.host(p, "child")
		if err != nil {
			return err
		}
		defer h.end()
		got, err := h.daemon(began)
		if err == nil && keep {
			since := got[returned].Since
			l.keep("daemon start", p, float64(got[returned].At-since)/1e6)
			l.keep("daemon up", p, float64(got[began].At-since)/1e6)
		}
		return err
	})
}

const (
	// memoryRounds are enough: the samples of one program lie close together.
	memoryRounds = 3
	lists        = 60 // between the first look and the second
)

// measureDaemonMemory: memory of a daemon whose child sleeps, of all peers side
// by side, and again after lists that it is in: a supervisor answers for itself.
// Where daemons share a process, it is that process with one daemon.
func measureDaemonMemory(l *lab) {
	for range memoryRounds {
		var hosts []*host
		for _, p := range l.peers {
			if p.program == "" || !keepsDaemons(p) {
				continue
			}
			h, err := l.host(p, "child")
			if err == nil {
				if _, err = h.daemon(began); err != nil {
					h.end()
				}
			}
			if err != nil {
				l.fail("daemon memory", p, err)
				continue
			}
			hosts = append(hosts, h)
		}
		time.Sleep(settling)
		for _, h := range hosts {
			if err := h.weighTwice(); err != nil {
				l.fail("daemon memory", h.peer, err)
			}
			h.end()
		}
	}
}

func (h *host) weighTwice() error {
	if err := h.weigh("daemon"); err != nil {
		return err
	}
	for range lists {
		if _, err := h.command(h.peer.client, "list"); err != nil {
			return err
		}
	}
	time.Sleep(time.Second)
	return h.weigh("listed")
}

// weigh keeps what smaps_rollup (proc_pid_smaps(5)) says of the processes that the
// commands left behind, in MiB: resident; with what they share divided by the
// number of those who share it; what would be free without them.
func (h *host) weigh(when string) error {
	for _, m := range []struct {
		metric string
		fields []string
	}{
		{" RSS", []string{"Rss"}},
		{" PSS", []string{"Pss"}},
		{" USS", []string{"Private_Clean", "Private_Dirty"}},
	} {
		kib, err := h.sum("smaps_rollup", m.fields...)
		if err != nil {
			return err
		}
		h.lab.keep(when+m.metric, h.peer, kib/1024)
	}
	return nil
}
