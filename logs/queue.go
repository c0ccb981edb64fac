package logs

import (
	"bytes"
	"sync"
	"time"
)

// queueLimit is how many bytes of lines wait for one destination at the most.
const queueLimit = 64 << 10

// Queue is an io.Writer for evermore's own lines. Writing to it never blocks
// and never fails: each destination has a bounded queue and, while lines are in
// it, one goroutine that writes them. Lines for which there is no room and
// lines that a destination refuses are counted; a destination that is stuck,
// closed or full takes nothing away from the others.
//
// A line is given to write(2) as a whole. Up to PIPE_BUF bytes (4096, see
// pipe(7)) no other writer of the same pipe can get in between.
type Queue struct {
	sinks []*sink
}

// NewQueue returns a queue that writes to the descriptors, which stay the
// caller's. Negative ones are left out.
func NewQueue(fds ...int) *Queue {
	q := &Queue{}
	for _, fd := range fds {
		if fd >= 0 {
			q.sinks = append(q.sinks, &sink{fd: fd})
		}
	}
	return q
}

// Write queues a copy of p: a line, or several. It always returns len(p) and nil.
func (q *Queue) Write(p []byte) (int, error) {
	for _, s := range q.sinks {
		s.add(p)
	}
	return len(p), nil
}

// Lost is how many lines did not reach a destination, summed over all
// destinations. It never falls.
func (q *Queue) Lost() uint64 {
	var n uint64
	for _, s := range q.sinks {
		s.mu.Lock()
		n += s.lost
		s.mu.Unlock()
	}
	return n
}

// Close waits until all lines are written, but no longer than the time-out;
// what is not written by then is lost, and so is every later line. A goroutine
// that a destination holds up cannot be called back: it ends when the
// destination lets go of it.
func (q *Queue) Close(timeout time.Duration) {
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	var flushing []<-chan struct{}
	for _, s := range q.sinks {
		if flushed := s.close(); flushed != nil {
			flushing = append(flushing, flushed)
		}
	}
	for _, flushed := range flushing {
		select {
		case <-flushed:
		case <-limit.C:
			limit.Reset(0) // the next one has no time left either
		}
	}
	for _, s := range q.sinks {
		s.abandon()
	}
}

// tellLosses has each destination that works again be told how many lines it
// missed. It is to be called before the first line is written.
func (q *Queue) tellLosses(line func(lost uint64) []byte) {
	for _, s := range q.sinks {
		s.lossLine = line
	}
}

// sink is one destination of a Queue.
type sink struct {
	fd       int
	lossLine func(lost uint64) []byte // nil: losses are only counted

	mu        sync.Mutex
	waiting   []byte // whole lines; the first one may be with the goroutine
	lost      uint64
	untold    uint64        // of the lost ones, those that no line has told
	flushed   chan struct{} // while a goroutine writes: closed when it ends
	closed    bool
	abandoned bool

	// Only the goroutine that writes uses these.
	failing bool // the last write failed
	torn    bool // and left a part of a line behind
}

// add queues lines, as far as there is room for all of p.
func (s *sink) add(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.waiting)+len(p) > queueLimit || len(p) == 0 {
		s.drop(p)
		return
	}
	s.waiting = append(s.waiting, p...)
	if !bytes.HasSuffix(p, newline) {
		s.waiting = append(s.waiting, newline...)
	}
	if s.flushed == nil {
		s.flushed = make(chan struct{})
		go s.flush()
	}
}

var newline = []byte{'\n'}

// flush writes lines until there are no more. An idle queue has no goroutine.
func (s *sink) flush() {
	for {
		line, lost := s.next()
		switch {
		case line != nil:
			s.done(line, s.write(line))
		case lost > 0:
			if s.write(s.lossLine(lost)) {
				s.told(lost)
			}
		default:
			return
		}
	}
}

// next returns the first line that waits or, when there is none, how many lost
// ones are to be told of. With neither, the goroutine ends.
func (s *sink) next() (line []byte, lost uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) > 0 {
		return s.waiting[:bytes.IndexByte(s.waiting, '\n')+1], 0
	}
	if s.untold > 0 && s.lossLine != nil && !s.failing && !s.abandoned {
		return nil, s.untold
	}
	s.waiting = nil
	close(s.flushed)
	s.flushed = nil
	return nil, 0
}

// write writes one line and tells whether it was written.
func (s *sink) write(line []byte) bool {
	if s.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := writeAll(s.fd, line)
	s.failing = err != nil
	if n > 0 {
		s.torn = err != nil
	}
	return err == nil
}

// done takes the line from those that wait.
func (s *sink) done(line []byte, written bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.abandoned {
		return // it has been counted
	}
	s.waiting = s.waiting[len(line):]
	if !written {
		s.drop(line)
	}
}

// drop counts lines as lost.
func (s *sink) drop(lines []byte) {
	n := uint64(bytes.Count(lines, newline))
	if len(lines) > 0 && !bytes.HasSuffix(lines, newline) {
		n++
	}
	s.lost += n
	s.untold += n
}

func (s *sink) told(lost uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.untold -= lost
}

// close refuses further lines and returns what is closed when those that wait
// are written; nil: none wait.
func (s *sink) close() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.flushed
}

// abandon gives up the lines that are not written yet.
func (s *sink) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abandoned = true
	s.drop(s.waiting)
	s.waiting = nil
}
