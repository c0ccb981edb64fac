//go:build !linux || !(amd64 || arm64)

package signals

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Catcher receives the signals of this process.
type Catcher struct {
	signals  chan Received
	children chan struct{}
	raw      chan os.Signal
	done     chan struct{}
	reader   sync.WaitGroup
}

// Catch begins to catch. Close ends it.
func Catch(o Options) (*Catcher, error) {
	c := &Catcher{
		signals:  make(chan Received, 256),
		children: make(chan struct{}, 1),
		raw:      make(chan os.Signal, 256),
		done:     make(chan struct{}),
	}
	for _, s := range All() {
		if (Forwardable(s) || s == syscall.SIGCHLD) && !o.Default.Has(s) && !signal.Ignored(s) {
			signal.Notify(c.raw, s)
		}
	}
	c.reader.Go(c.read)
	return c, nil
}

func (c *Catcher) read() {
	for {
		select {
		case <-c.done:
			return
		case s := <-c.raw:
			switch s {
			case syscall.SIGCHLD:
				select {
				case c.children <- struct{}{}:
				default:
				}
			case syscall.SIGPIPE:
				// Broken connections of this process raise it too, and os/signal
				// does not say who sent it.
			default:
				select {
				case c.signals <- Received{Signal: s.(syscall.Signal)}:
				case <-c.done:
					return
				}
			}
		}
	}
}

// Signals gives what arrives.
func (c *Catcher) Signals() <-chan Received { return c.signals }

// Children gives one token after any number of SIGCHLD.
func (c *Catcher) Children() <-chan struct{} { return c.children }

// SetTarget does nothing here: the caller sends on every signal.
func (c *Catcher) SetTarget(pidfd int) error { return nil }

// JustForwarded is always false here.
func (c *Catcher) JustForwarded(s syscall.Signal) bool { return false }

// Lost is always 0 here: os/signal does not count what it drops.
func (c *Catcher) Lost() uint64 { return 0 }

// Close ends the catching.
func (c *Catcher) Close() {
	signal.Stop(c.raw)
	close(c.done)
	c.reader.Wait()
}
