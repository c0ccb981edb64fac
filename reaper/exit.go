package reaper

import (
	"fmt"
	"syscall"
	"time"
)

// Exit is how a process ended.
type Exit struct {
	PID int
	// Code is the exit code, 0 to 255; meaningless when Signal is not 0.
	Code int
	// Signal is what killed the process; 0: it exited.
	Signal     syscall.Signal
	CoreDumped bool
	// Unknown says that nobody could tell how an adopted process ended: Code is 1.
	Unknown bool
	// At is when the exit was seen.
	At time.Time
	// PeakMemory is the most resident memory that the process, or one of the
	// descendants that it has waited for, had at a time, in bytes: ru_maxrss of
	// getrusage(2). 0: unknown, as of an adopted process.
	PeakMemory int64
}

// Status is the exit code in a shell's terms: Code, or 128+n for signal n.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

func (e Exit) String() string {
	if e.Signal != 0 {
		return fmt.Sprintf("signal %d", int(e.Signal))
	}
	if e.Unknown {
		return "code unknown"
	}
	return fmt.Sprintf("code %d", e.Code)
}
