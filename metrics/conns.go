package metrics

import (
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	acceptRetryFirst = 5 * time.Millisecond
	acceptRetryLast  = time.Second
)

// listener bounds how many connections there are: when there is one too many,
// the oldest is shed, so that clients which are slow or silent never keep a probe
// out. What fails in accept(2) is tried again until the listener is closed.
type listener struct {
	net.Listener
	max    int
	warn   func(format string, args ...any)
	open   *sync.WaitGroup // of the goroutines that serve connections
	closed chan struct{}

	mu       sync.Mutex
	conns    []*conn // that are not shed, oldest first
	stopping bool
}

// conn is a connection that its listener knows of.
type conn struct {
	net.Conn
	of        *listener
	answering bool // from when a request reaches its handler until it is answered; under of.mu
}

// CloseWrite is looked for by net/http: without it a client that is refused
// while it still sends may not get to read why.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Accept waits for the next connection. Its only error is that the listener is
// closed.
func (l *listener) Accept() (net.Conn, error) {
	for retry := acceptRetryFirst; ; retry = min(2*retry, acceptRetryLast) {
		c, err := l.Listener.Accept()
		if err == nil {
			return l.admit(c), nil
		}
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		l.warn("cannot accept a connection: %v", err)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			l.mu.Lock()
			l.shed()
			l.mu.Unlock()
		}
		select {
		case <-time.After(retry):
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
}

// Close ends Accept, also while it waits to try again. net/http calls it once.
func (l *listener) Close() error {
	close(l.closed)
	return l.Listener.Close()
}

func (l *listener) admit(nc net.Conn) *conn {
	c := &conn{Conn: nc, of: l}
	l.open.Add(1)
	l.mu.Lock()
	full := len(l.conns) >= l.max
	switch {
	case l.stopping:
		c.Close()
	case full:
		l.shed()
		fallthrough
	default:
		l.conns = append(l.conns, c)
	}
	l.mu.Unlock()
	if full {
		l.warn("the limit of %d connections is reached: the oldest is closed", l.max)
	}
	return c
}

// shed closes the oldest connection; one that waits for its answer only if all
// of them do.
func (l *listener) shed() {
	if len(l.conns) == 0 {
		return
	}
	i := max(0, slices.IndexFunc(l.conns, func(c *conn) bool { return !c.answering }))
	l.conns[i].Close()
	l.conns = slices.Delete(l.conns, i, i+1)
}

// refuseAll closes every connection, now and from now on, that does not wait for
// its answer.
func (l *listener) refuseAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopping = true
	for _, c := range l.conns {
		if !c.answering {
			c.Close()
		}
	}
}

// beginAnswer notes that a request has reached its handler.
func (c *conn) beginAnswer() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.answering = true
}

// stateChanged is what http.Server's ConnState tells.
func (c *conn) stateChanged(state http.ConnState) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	switch state {
	case http.StateIdle: // the answer is written
		c.answering = false
	case http.StateClosed: // nothing else is done for it
		c.of.conns = slices.DeleteFunc(c.of.conns, func(other *conn) bool { return other == c })
		c.of.open.Done()
	}
}
