//go:build !linux || !(amd64 || arm64)

package signals

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Catcher receives the signals of this process by os/signal.
type Catcher struct {
	signals  chan Received
	children chan struct{}
	incoming chan os.Signal
	done     chan struct{}
	routines sync.WaitGroup
}

// Catch begins to catch every signal that os/signal delivers, but those of
// o.Default and those that this process inherited as ignored. Nothing is sent to
// a target: every Received says so, and the caller sends. PIPE is not reported,
// since os/signal does not tell that of an own broken connection from another's.
// There can be one Catcher at a time.
func Catch(o Options) (*Catcher, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if !catching.CompareAndSwap(false, true) {
		return nil, errCatching
	}
	c := &Catcher{
		signals:  make(chan Received, 64),
		children: make(chan struct{}, 1),
		incoming: make(chan os.Signal, 64),
		done:     make(chan struct{}),
	}
	for _, s := range All() {
		if s == syscall.SIGCHLD || Forwardable(s) && !o.Default.Has(s) && !signal.Ignored(s) {
			signal.Notify(c.incoming, s)
		}
	}
	c.routines.Go(c.read)
	return c, nil
}

func (c *Catcher) read() {
	for {
		var s os.Signal
		select {
		case s = <-c.incoming:
		case <-c.done:
			return
		}
		switch s {
		case syscall.SIGCHLD:
			select {
			case c.children <- struct{}{}:
			default: // a token that nobody has taken yet stands for this one too
			}
		case syscall.SIGPIPE:
		default:
			select {
			case c.signals <- Received{Signal: s.(syscall.Signal)}:
			case <-c.done:
				return
			}
		}
	}
}

// Signals gives what arrives.
func (c *Catcher) Signals() <-chan Received { return c.signals }

// Children gives a token when children have died since the last token was taken,
// however many: whoever takes one then reaps all there are.
func (c *Catcher) Children() <-chan struct{} { return c.children }

// SetTarget does nothing here, where the caller sends every signal.
func (c *Catcher) SetTarget(pidfd int) error { return nil }

// JustForwarded is always false here.
func (c *Catcher) JustForwarded(s syscall.Signal) bool { return false }

// Lost is always 0 here: os/signal does not count what it drops.
func (c *Catcher) Lost() uint64 { return 0 }

// Close gives the signals back to the Go runtime. It is for tests.
func (c *Catcher) Close() {
	signal.Stop(c.incoming)
	close(c.done)
	c.routines.Wait()
	catching.Store(false)
}
