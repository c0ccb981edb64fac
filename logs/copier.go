package logs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// chunk is how much is copied at a time: what a pipe holds by default
	// (pipe(7)). A larger pipe gained nothing: BenchmarkOutput.
	chunk = 64 << 10
	// lineGrace is how long the beginning of a line waits for the rest of it,
	// where another stream could get in between.
	lineGrace = 20 * time.Millisecond
)

// copier copies what one stream of the app writes to several targets. It reads
// and writes: tee(2) needs pipes on both sides, and splice(2) refuses files that
// are appended to.
type copier struct {
	targets []*target
	// shared says that the other stream goes to one of the targets, too: there
	// lines are kept whole.
	shared  bool
	grace   time.Duration // lineGrace
	stamps  bool          // the time is put before each line
	inLine  bool          // what was written last has no newline yet
	stamped []byte        // a buffer
	failed  func(name string, err error)
	errors  *atomic.Uint64
	bytes   atomic.Uint64

	in      int // the end that the app gets
	out     int // the end that is read
	reader  *os.File
	closing chan struct{}
	limit   time.Time // valid once closing is closed: when to stop reading
	done    chan struct{}
}

func newCopier(targets []*target, shared bool, failed func(string, error), errors *atomic.Uint64) (*copier, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	// Only the end that is read waits in the runtime's poller and not in a
	// thread; the app's end blocks, as any stdout. The ends of a pipe do not
	// share their flags.
	if err := unix.SetNonblock(p[0], true); err != nil {
		_ = unix.Close(p[0])
		_ = unix.Close(p[1])
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &copier{
		targets: targets,
		shared:  shared,
		grace:   lineGrace,
		failed:  failed,
		errors:  errors,
		in:      p[1],
		out:     p[0],
		reader:  os.NewFile(uintptr(p[0]), "pipe"),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}, nil
}

// run copies until close is called and the pipe is empty.
func (c *copier) run() {
	defer close(c.done)
	buf := make([]byte, chunk)
	held := 0           // so many bytes in buf are the beginning of a line
	var since time.Time // when that was read
	for {
		n, err := c.read(buf[held:])
		c.bytes.Add(uint64(n))
		data := buf[:held+n]
		whole := len(data)
		if c.shared && err == nil {
			whole = bytes.LastIndexByte(data, '\n') + 1
			if held == 0 || whole > 0 {
				since = time.Now()
			}
		}
		c.write(data[:whole])
		held = copy(buf, data[whole:])
		if held == len(buf) || held > 0 && !c.more(c.grace-time.Since(since)) {
			c.write(buf[:held])
			held = 0
		}
		if err != nil {
			return
		}
	}
}

// more waits until the pipe has something to read, but not longer than d.
func (c *copier) more(d time.Duration) bool {
	if d <= 0 {
		return false
	}
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(c.out), Events: unix.POLLIN}}, int(d.Milliseconds())+1)
	return n > 0
}

// read reads from the pipe; io.EOF: nothing more is to be read.
func (c *copier) read(p []byte) (int, error) {
	select {
	case <-c.closing:
		return c.readRest(p)
	default:
	}
	n, err := c.reader.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return c.readRest(p)
	}
	return n, err
}

// readRest reads what the pipe still holds. A descendant that has the other end
// open would keep an ordinary read waiting.
func (c *copier) readRest(p []byte) (int, error) {
	for {
		n, err := unix.Read(c.out, p)
		switch {
		case err == unix.EINTR:
		case err != nil: // EAGAIN: it is empty, for evermore itself has the other end
			return 0, io.EOF
		case time.Now().After(c.limit):
			c.errors.Add(1)
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// write gives p to each target, with the time before each line if asked for.
func (c *copier) write(p []byte) {
	if !c.stamps {
		c.send(p)
		return
	}
	stamp := time.Now().UTC().AppendFormat(nil, timeFormat+" - ")
	b := c.stamped[:0]
	for line := range bytes.Lines(p) {
		if !c.inLine {
			b = append(b, stamp...)
		}
		b = append(b, line...)
		c.inLine = line[len(line)-1] != '\n'
		if len(b) >= chunk && !c.inLine { // times may be most of it
			c.send(b)
			b = b[:0]
		}
	}
	c.send(b)
	c.stamped = b
}

// send gives p to each target. What one refuses it does not get.
func (c *copier) send(p []byte) {
	if len(p) == 0 {
		return
	}
	for _, t := range c.targets {
		err := t.write(p)
		if err != nil {
			c.errors.Add(1)
		}
		if failing := err != nil; failing != t.failing.Swap(failing) && failing && c.failed != nil {
			c.failed(t.name, err)
		}
	}
}

// close has run come to its end: when the pipe is empty, or at the limit, but
// not while a target holds it up.
func (c *copier) close(limit time.Time) {
	c.limit = limit
	close(c.closing)
	_ = c.reader.SetReadDeadline(time.Unix(1, 0))
}

// closeEnds closes the pipe. run has ended, or never began.
func (c *copier) closeEnds() {
	_ = unix.Close(c.in)
	_ = c.reader.Close()
}
