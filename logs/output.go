// Package logs is where output goes: the app's own, which evermore leaves alone
// wherever it can (Output), and the lines that evermore writes about what
// happens (Lines, by way of a Queue).
package logs

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Options says where the app's output goes. With the zero value the app
// inherits stdin, stdout and stderr.
type Options struct {
	// LogFile (-l) takes the place of evermore's stdout and stderr. It is always
	// appended to. evermore's own lines go there too: see Output.Log.
	LogFile string
	// OutFile (-o) and ErrFile (-e) get what the app writes to stdout and to
	// stderr; they may be the same file. They are emptied unless Append (-a).
	OutFile, ErrFile string
	Append           bool
	// Silent (-s) leaves OutFile and ErrFile only.
	Silent bool
	// Failed, when not nil, is told that a destination fails which took the
	// write before: once, until it takes one again. It is called by goroutines
	// of Output's and must not block.
	Failed func(name string, err error)
}

// The streams of an app, as Bytes knows them.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// Streams lists every stream.
func Streams() []string { return []string{Stdout, Stderr} }

// Output is where the app's output goes, through all of its runs.
//
// A stream with one destination is that destination: the app writes to it and
// evermore touches no byte. Only a stream with two (such as -o without -s) is a
// pipe, from which a goroutine copies. It is one pipe for all runs, and evermore
// keeps both ends: a restart loses and splits nothing, and descendants that hold
// on to the pipe hang nothing.
//
// A destination of a pipe that fails (a full disk, a lost reader) misses what it
// refused, and that is all: it is tried again with the next bytes, and neither
// the other destination nor the app notices. A destination that is stuck (a
// stdout that nobody reads) slows the app down as it would without evermore:
// when the pipe is full, the app waits. What was read until then is in the file,
// which is written first. Supervision waits for neither.
type Output struct {
	std     [3]int
	log     int
	owned   []int // descriptors that Close closes
	streams [2]stream
	errors  atomic.Uint64
}

// stream is what one output of the app goes to.
type stream struct {
	fd     int
	copier *copier // nil: the app writes by itself
	file   *growth // nil unless the app writes to a file of its own
}

// Open opens what the options name, before anything runs. The error gives the
// name that cannot be opened; nothing has been emptied then.
func Open(o Options) (*Output, error) {
	return open(o, [3]int{0, 1, 2})
}

// open is Open for other descriptors than 0, 1 and 2.
func open(o Options, std [3]int) (*Output, error) {
	out := &Output{std: std, log: -1}
	if err := out.open(o); err != nil {
		out.closeAll()
		return nil, err
	}
	for _, s := range out.streams {
		if s.copier != nil {
			go s.copier.run()
		}
	}
	return out, nil
}

func (out *Output) open(o Options) error {
	to, err := out.destinations(o)
	if err != nil {
		return err
	}
	for i, targets := range to {
		s, other := &out.streams[i], to[1-i]
		shared := slices.ContainsFunc(targets, func(t *target) bool { return slices.ContainsFunc(other, t.same) })
		if len(targets) > 1 {
			s.copier, err = newCopier(targets, shared, o.Failed, &out.errors)
			if err != nil {
				return fmt.Errorf("cannot make a pipe for the app's %s: %w", Streams()[i], err)
			}
			s.fd = s.copier.in
			continue
		}
		t := targets[0]
		s.fd = t.fd
		if t.regular && !t.borrowed && !shared && t.fd != out.log {
			s.file = &growth{fd: t.fd, size: t.size}
		}
	}
	return nil
}

// destinations gives those of stdout and of stderr, a file before what may be
// stuck.
func (out *Output) destinations(o Options) (to [2][]*target, err error) {
	var opened []*target
	file := func(path string) (*target, error) {
		t, err := openTarget(path)
		if err != nil {
			return nil, fmt.Errorf("cannot open log file %q: %w", path, err)
		}
		out.owned = append(out.owned, t.fd)
		if i := slices.IndexFunc(opened, t.same); i >= 0 {
			return opened[i], nil // one open file description for both
		}
		opened = append(opened, t)
		return t, nil
	}

	var primary [2]*target
	for i, name := range Streams() {
		if primary[i], err = borrow(out.std[i+1], name); err != nil {
			return to, fmt.Errorf("cannot use %s: %w", name, err)
		}
	}
	if o.LogFile != "" {
		log, err := file(o.LogFile)
		if err != nil {
			return to, err
		}
		if !log.same(primary[1]) {
			out.log = log.fd
		}
		primary = [2]*target{log, log}
	}
	var empty []*target
	for i, path := range []string{o.OutFile, o.ErrFile} {
		if path != "" {
			t, err := file(path)
			if err != nil {
				return to, err
			}
			to[i] = append(to[i], t)
			if !o.Append && t.regular && !t.borrowed {
				empty = append(empty, t)
			}
		}
		if !o.Silent && !slices.ContainsFunc(to[i], primary[i].same) {
			to[i] = append(to[i], primary[i])
		}
		if len(to[i]) == 0 {
			null, err := file(os.DevNull)
			if err != nil {
				return to, err
			}
			to[i] = append(to[i], null)
		}
		if len(to[i]) == 2 && !to[i][0].regular && to[i][1].regular {
			slices.Reverse(to[i])
		}
	}
	for _, t := range empty {
		if err := unix.Ftruncate(t.fd, 0); err != nil {
			return to, fmt.Errorf("cannot empty log file %q: %w", t.name, err)
		}
		t.size = 0
	}
	return to, nil
}

// Files are the descriptors that the app gets as 0, 1 and 2, in every run.
func (out *Output) Files() [3]uintptr {
	return [3]uintptr{uintptr(out.std[0]), uintptr(out.streams[0].fd), uintptr(out.streams[1].fd)}
}

// Log is the descriptor of LogFile, to which evermore's own lines go beside
// stderr, for NewQueue. It is -1 without a LogFile, and when that is stderr. It
// stays open until Close.
func (out *Output) Log() int { return out.log }

// Bytes is how many bytes the stream has carried as far as evermore can tell:
// what went through its pipe or, where the app writes to a file that nothing else
// is sent to, by how much that file grew. A file that has become shorter since
// the last call is taken to have been emptied. What goes to inherited
// descriptors, and to a file of both streams, is not known and counts as 0.
func (out *Output) Bytes(stream string) uint64 {
	for i, name := range Streams() {
		if name != stream {
			continue
		}
		switch s := &out.streams[i]; {
		case s.copier != nil:
			return s.copier.bytes.Load()
		case s.file != nil:
			return s.file.total()
		}
	}
	return 0
}

// Errors is how many writes to the destinations of pipes failed, and how many
// pipes Close gave up. What the app writes by itself it hears of itself.
func (out *Output) Errors() uint64 { return out.errors.Load() }

// Close copies what the pipes still hold and closes what Open opened. It takes
// as long as wait at the most: a pipe whose destination is stuck is given up
// then, and its descriptors stay open until the process ends.
func (out *Output) Close(wait time.Duration) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	// Reading ends before the time-out does, so that a descendant that floods
	// the pipe does not look like a destination that is stuck.
	limit := time.Now().Add(wait - wait/8)
	for _, s := range out.streams {
		if s.copier != nil {
			s.copier.close(limit)
		}
	}
	for _, s := range out.streams {
		if s.copier == nil {
			continue
		}
		select {
		case <-s.copier.done:
		case <-timeout.C:
			out.errors.Add(1)
			return // its goroutine must not meet other files under these numbers
		}
	}
	out.closeAll()
}

// closeAll closes every descriptor that is evermore's own.
func (out *Output) closeAll() {
	for _, s := range out.streams {
		if s.copier != nil {
			s.copier.closeEnds()
		}
	}
	for _, fd := range out.owned {
		_ = unix.Close(fd)
	}
	out.owned = nil
}

// growth follows the size of a file.
type growth struct {
	fd int

	mu    sync.Mutex
	size  int64
	bytes uint64
}

func (g *growth) total() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	var st unix.Stat_t
	if unix.Fstat(g.fd, &st) != nil {
		return g.bytes
	}
	if st.Size < g.size {
		g.size = 0
	}
	g.bytes += uint64(st.Size - g.size)
	g.size = st.Size
	return g.bytes
}
