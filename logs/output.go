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
	// Timestamps has each line of the app's begin with the time at which it was
	// read, in the form of forever's timestamps: "2026-11-23T01:36:00.385Z - ".
	Timestamps bool
	// MaxSize, in bytes, is from where on the files named above are rotated; 0:
	// never. Old ones are called app-2006-01-02T15-04-05.000.log (UTC) for app.log.
	MaxSize int64
	// MaxFiles is how many old ones of each file are kept; 0: all.
	MaxFiles int
	// Compress compresses old ones by gzip, which adds .gz to the name.
	Compress bool
	// Failed, when not nil, is told that a destination fails which took the
	// write before: once, until it takes one again. It is called by goroutines
	// of Output's and must not block.
	Failed func(name string, err error)
	// NotRotated, when not nil, is told in the same way of a file that cannot be
	// rotated. The file goes on, and it is tried again later.
	NotRotated func(name string, err error)
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
// evermore touches no byte. Only a stream with two (such as -o without -s), or with
// timestamps, is a pipe, from which a goroutine copies. It is one pipe for all
// runs, and evermore keeps both ends: a restart loses and splits nothing, and
// descendants that hold on to the pipe hang nothing. An app with a pipe does not
// outlive an evermore that is killed: see Piped.
//
// A file that is to be rotated (MaxSize) is renamed if only pipes and evermore's
// own lines are written to it: no byte is lost and no line cut. What the app
// writes to by itself, or what is evermore's own stdout or stderr, is copied and
// truncated, as by logrotate's copytruncate: bytes that are appended in the
// microseconds between the two are lost. Its size is looked at after half the time
// in which it would be full at the rate it grows, but no sooner than after 1 s and
// no later than after 30 s. This is the only thing that wakes evermore, and only
// with MaxSize; within one pause the file can become larger than MaxSize.
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

	files   []*target     // that can be opened anew
	looked  []*rotation   // those whose size is looked at
	closing chan struct{} // ends looking
	looking chan struct{} // closed when it has ended; nil: none look
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
	if len(out.looked) > 0 {
		out.closing, out.looking = make(chan struct{}), make(chan struct{})
		go out.look()
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
		if len(targets) > 1 || o.Timestamps && targets[0].name != os.DevNull {
			s.copier, err = newCopier(targets, shared, o.Failed, &out.errors)
			if err != nil {
				return fmt.Errorf("cannot make a pipe for the app's %s: %w", Streams()[i], err)
			}
			s.copier.stamps = o.Timestamps
			s.fd = s.copier.in
			continue
		}
		t := targets[0]
		s.fd = t.fd
		if t.regular && !t.borrowed && !shared && t.fd != out.log {
			s.file = &growth{fd: t.fd, size: t.size}
		}
	}
	if o.MaxSize > 0 {
		out.rotate(o)
	}
	return nil
}

// rotate gives each file its rotation.
func (out *Output) rotate(o Options) {
	for _, t := range out.files {
		t.rotation = newRotation(t, o)
		t.rotation.copied = len(t.aliases) > 0
		for _, s := range out.streams {
			if s.fd == t.fd {
				t.rotation.copied, t.rotation.growth = true, s.file
			}
		}
		if t.rotation.copied || t.fd == out.log {
			out.looked = append(out.looked, t.rotation)
		}
	}
}

// look looks at the sizes of files until Close is called.
func (out *Output) look() {
	defer close(out.looking)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-out.closing:
			return
		case <-timer.C:
		}
		next := maxLook
		for _, r := range out.looked {
			next = min(next, r.look(out.closing))
		}
		timer.Reset(next)
	}
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
		if t.path != "" {
			out.files = append(out.files, t)
		}
		return t, nil
	}

	var primary [2]*target
	for i, name := range Streams() {
		if primary[i], err = borrow(out.std[i+1], name); err != nil {
			return to, fmt.Errorf("cannot use %s: %w", name, err)
		}
	}
	std := primary
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
	for _, t := range out.files {
		for i, s := range std {
			if t.same(s) {
				t.aliases = append(t.aliases, out.std[i+1])
			}
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

// Piped says that the app writes to a pipe of evermore's. When evermore is killed,
// nobody reads that any more, and its next write fails: EPIPE, after SIGPIPE.
func (out *Output) Piped() bool {
	return slices.ContainsFunc(out.streams[:], func(s stream) bool { return s.copier != nil })
}

// Reopen opens those files anew whose names lead elsewhere by now, or nowhere, as
// after logrotate's create. What comes from pipes and evermore's own lines go to
// the new files at once; what the app writes by itself does from its next run on.
func (out *Output) Reopen() error {
	for _, t := range out.files {
		if err := t.reopenIfMoved(); err != nil {
			return fmt.Errorf("cannot open log file %q again: %w", t.name, err)
		}
	}
	return nil
}

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
	if out.looking != nil {
		close(out.closing)
	}
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
	if out.looking != nil {
		select {
		case <-out.looking:
		case <-timeout.C: // a disk that hangs
			return
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
	g.count()
	return g.bytes
}

// emptied counts what is in the file before empty empties it.
func (g *growth) emptied(empty func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count()
	err := empty()
	if err == nil {
		g.size = 0
	}
	return err
}

func (g *growth) count() {
	var st unix.Stat_t
	if unix.Fstat(g.fd, &st) != nil {
		return
	}
	if st.Size < g.size {
		g.size = 0
	}
	g.bytes += uint64(st.Size - g.size)
	g.size = st.Size
}
