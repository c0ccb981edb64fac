// Package signals is the one table of signals, and their catching.
//
// The table says how a signal is called, whether it is forwarded to the app and,
// where it is not, why.
//
// Catch takes the signals of the process by a handler of its own, in assembly,
// on linux/amd64 and linux/arm64; elsewhere it uses os/signal. The handler
// itself sends a signal on to the app and then reports it, with its sender, to a
// pipe. os/signal keeps neither the sender nor the number of queued real-time
// signals, never delivers SIGPROF, and costs two thread switches on the way.
package signals

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Real-time signals as Linux and its C libraries number them: the kernel's
// first two, 32 and 33, are kept by the C library, see signal(7).
const (
	rtMin = syscall.Signal(34)
	rtMax = syscall.Signal(64)
)

// aliases are second names in use beside those of unix.SignalName.
var aliases = map[string]string{
	"CLD":    "CHLD",
	"IOT":    "ABRT",
	"POLL":   "IO",
	"UNUSED": "SYS",
}

// Parse reads a signal as kill(1) does: by its name, with or without SIG and in
// any case ("TERM", "sigterm", "RTMIN+3", "SIGRTMAX-1", "CLD"), or by its number
// from 1 to 64.
func Parse(s string) (syscall.Signal, error) {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && n >= 1 && n <= uint64(rtMax) {
		return syscall.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if to, ok := aliases[name]; ok {
		name = to
	}
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n, nil
	}
	if n, ok := parseRealTime(name); ok {
		return n, nil
	}
	return 0, fmt.Errorf("unknown signal %q: use a name such as TERM or RTMIN+1, or a number from 1 to 64", s)
}

// parseRealTime reads RTMIN, RTMIN+n, RTMAX-n and RTMAX.
func parseRealTime(name string) (syscall.Signal, bool) {
	switch name {
	case "RTMIN":
		return rtMin, true
	case "RTMAX":
		return rtMax, true
	}
	if after, ok := strings.CutPrefix(name, "RTMIN+"); ok {
		n, err := strconv.ParseUint(after, 10, 8)
		return rtMin + syscall.Signal(n), err == nil && n <= uint64(rtMax-rtMin)
	}
	if after, ok := strings.CutPrefix(name, "RTMAX-"); ok {
		n, err := strconv.ParseUint(after, 10, 8)
		return rtMax - syscall.Signal(n), err == nil && n <= uint64(rtMax-rtMin)
	}
	return 0, false
}

// Name gives the name of a signal as "kill -l" of bash prints it: "SIGTERM",
// "SIGRTMIN+6" up to SIGRTMIN+15, then "SIGRTMAX-14" up to SIGRTMAX. A signal
// without a name (32 and 33) is its number. Parse reads it back.
func Name(s syscall.Signal) string {
	switch {
	case s == rtMin:
		return "SIGRTMIN"
	case s == rtMax:
		return "SIGRTMAX"
	case s > rtMin && s <= rtMin+15:
		return "SIGRTMIN+" + strconv.Itoa(int(s-rtMin))
	case s > rtMin && s < rtMax:
		return "SIGRTMAX-" + strconv.Itoa(int(rtMax-s))
	}
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return strconv.Itoa(int(s))
}

// All gives every signal, 1 to 64.
func All() []syscall.Signal {
	all := make([]syscall.Signal, 0, rtMax)
	for s := syscall.Signal(1); s <= rtMax; s++ {
		all = append(all, s)
	}
	return all
}

// Forwardable tells whether a signal that evermore receives can be sent on to
// the app.
func Forwardable(s syscall.Signal) bool { return WhyNot(s) == "" }

// WhyNot says why a signal is not forwarded, as the end of a sentence that
// begins with its name; empty: it is forwardable.
func WhyNot(s syscall.Signal) string {
	if isFault(s) {
		return "it is about a fault of the process that receives it"
	}
	switch s {
	case unix.SIGKILL, unix.SIGSTOP:
		return "no process can catch it"
	case unix.SIGCHLD:
		return "it is about evermore's own children"
	case unix.SIGURG:
		return "the Go runtime uses it for itself"
	case 32, 33, 34:
		// 34 is SIGRTMIN for a program, but musl's for its threads.
		return "C libraries use it for their threads"
	}
	if s < 1 || s > rtMax {
		return "there is no such signal"
	}
	return ""
}

// isFault tells whether s is one by which the kernel reports a fault to the
// process that made it.
func isFault(s syscall.Signal) bool {
	switch s {
	case unix.SIGFPE, unix.SIGILL, unix.SIGSEGV, unix.SIGBUS, unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS:
		return true
	}
	return false
}

// ParseRewrite reads "FROM=TO": the signal that arrives and the one that is sent
// in its place. "FROM=0" gives to = 0: nothing is sent.
//
// from must be forwardable. to is anything but 32 and 33, with which a C library
// works on its threads. SIGSTOP is allowed, since it is the one way to suspend
// an app that leads its own session or group there: the kernel drops the SIGTSTP
// of an orphaned group (setpgid(2)); SIGABRT is, for a core dump.
func ParseRewrite(s string) (from, to syscall.Signal, err error) {
	left, right, found := strings.Cut(s, "=")
	if !found {
		return 0, 0, fmt.Errorf("cannot read %q as a rewriting: use FROM=TO such as TERM=INT, or FROM=0 to drop the signal", s)
	}
	if from, err = Parse(left); err != nil {
		return 0, 0, fmt.Errorf("cannot rewrite %q: %w", s, err)
	}
	if why := WhyNot(from); why != "" {
		return 0, 0, fmt.Errorf("cannot rewrite %q: %s is never forwarded, %s", s, Name(from), why)
	}
	if right == "0" {
		return from, 0, nil
	}
	if to, err = Parse(right); err != nil {
		return 0, 0, fmt.Errorf("cannot rewrite %q: %w", s, err)
	}
	if to == 32 || to == 33 {
		return 0, 0, fmt.Errorf("cannot rewrite %q: signal %d is the C library's own, use another", s, int(to))
	}
	return from, to, nil
}
