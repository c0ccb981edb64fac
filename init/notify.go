package pid1

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"evermore/reaper"
)

// notice is what the app said by sd_notify(3).
type notice struct {
	ready, stopping, reloading, alive, trigger bool
	status                                     string
	hasStatus                                  bool
	watchdog                                   time.Duration // 0: not told
}

// notifySocket is where the app's notices arrive. Its name is abstract: an app
// that runs as another user or with a read-only root reaches it; who may speak
// is decided by the sender's pid.
type notifySocket struct {
	name string // as NOTIFY_SOCKET has it
	conn *net.UnixConn
	done chan struct{}
	// adopted is a process that is no descendant and may speak; 0: there is none.
	adopted int
}

// notifyNames is how the names of sockets for notices begin.
const notifyNames = "@evermore/"

// listenNotify opens the socket; what is said there goes to out until over. An
// app that is adopted goes on to speak to the socket of the supervisor that it
// had, which is opened again then.
func listenNotify(out chan<- notice, over <-chan struct{}, adopt *reaper.Adoption) (*notifySocket, error) {
	name, adopted := fmt.Sprintf("%s%d-%016x", notifyNames, os.Getpid(), rand.Uint64()), 0
	if adopt != nil {
		adopted = adopt.PID
		if strings.HasPrefix(adopt.Notify, notifyNames) {
			name = adopt.Notify
		}
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("cannot open the socket for --ready notify: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		if cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
		}); cerr != nil {
			err = cerr
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot learn who speaks on the socket for --ready notify: %w", err)
	}
	s := &notifySocket{name: name, conn: conn, done: make(chan struct{}), adopted: adopted}
	go s.read(out, over)
	return s, nil
}

func (s *notifySocket) read(out chan<- notice, over <-chan struct{}) {
	defer close(s.done)
	buf := make([]byte, 4096)
	// Room for the sender's credentials and nothing else: descriptors that come
	// along (FDSTORE=1, BARRIER=1) are closed by the kernel, and closed is what
	// a barrier waits for.
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		n, oobn, _, _, err := s.conn.ReadMsgUnix(buf, oob)
		if err != nil {
			return // closed
		}
		if !s.mayCome(oob[:oobn]) {
			continue
		}
		if told, ok := parseNotice(string(buf[:n])); ok {
			select {
			case out <- told:
			case <-over:
				return
			}
		}
	}
}

func (s *notifySocket) close() {
	s.conn.Close()
	<-s.done
}

// mayCome tells whether the sender was started below evermore, or below the app
// that it adopted. One in another pid namespace has pid 0.
func (s *notifySocket) mayCome(oob []byte) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for i := range messages {
		if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			pid := int(cred.Pid)
			return pid > 0 && (reaper.Below(pid, os.Getpid()) || s.adopted != 0 && (pid == s.adopted || reaper.Below(pid, s.adopted)))
		}
	}
	return false
}

// parseNotice reads a message of sd_notify(3): one assignment a line, unknown
// ones mean nothing. ok: there is something in it for evermore.
func parseNotice(s string) (n notice, ok bool) {
	for line := range strings.SplitSeq(s, "\n") {
		name, value, _ := strings.Cut(line, "=")
		switch {
		case line == "READY=1":
			n.ready, ok = true, true
		case line == "STOPPING=1":
			n.stopping, ok = true, true
		case line == "RELOADING=1":
			n.reloading, ok = true, true
		case line == "WATCHDOG=1":
			n.alive, ok = true, true
		case line == "WATCHDOG=trigger":
			n.trigger, ok = true, true
		case name == "STATUS":
			n.status, n.hasStatus, ok = value, true, true
		case name == "WATCHDOG_USEC":
			us, err := strconv.ParseInt(value, 10, 64)
			if err == nil && us > 0 && us <= int64((365*24*time.Hour)/time.Microsecond) {
				n.watchdog, ok = time.Duration(us)*time.Microsecond, true
			}
		}
	}
	return n, ok
}

// notified: the app said something.
func (a *App) notified(n notice) {
	if a.run.process == nil || a.run.before {
		return
	}
	if n.hasStatus && n.status != a.snap.Status {
		a.snap.Status = n.status
		a.emit(Event{Kind: StatusTold, PID: a.snap.PID, Text: n.status})
	}
	if a.state != StateRunning {
		return
	}
	switch {
	case n.trigger:
		a.run.hungAt = time.Time{}
		a.watchdogElapsed()
		return
	case n.watchdog > 0:
		a.run.watchdog = n.watchdog
	}
	if n.alive || n.watchdog > 0 && a.snap.Ready {
		a.feedWatchdog()
	}
	switch {
	case n.ready:
		a.becameReady()
	case n.stopping:
		a.unready("it said STOPPING=1")
	case n.reloading:
		a.unready("it said RELOADING=1")
	}
}
