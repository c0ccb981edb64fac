package pid1

import (
	"fmt"

	"evermore/reaper"
)

// Kernel is Processes by a reaper: the real ones.
type Kernel struct {
	*reaper.Reaper
	// First, when not nil, gives the first start, which has been made already.
	First func() (*reaper.Process, error)
}

// Start starts the command.
func (k *Kernel) Start(c reaper.Command) (Process, error) {
	start := k.Reaper.Start
	if first := k.First; first != nil {
		k.First = nil
		start = func(reaper.Command) (*reaper.Process, error) { return first() }
	}
	p, err := start(c)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Leftovers gives what is left of the run of p.
func (k *Kernel) Leftovers(p Process) []Leftover {
	var left []Leftover
	for _, l := range k.Reaper.Leftovers(p.(*reaper.Process)) {
		left = append(left, leftover{l})
	}
	return left
}

type leftover struct{ reaper.Leftover }

func (l leftover) String() string { return fmt.Sprintf("%s (%d)", l.Name, l.PID) }

// Adopt watches over a process that somebody else has started.
func (k *Kernel) Adopt(a reaper.Adoption) (Process, error) {
	p, err := k.Reaper.Adopt(a)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Memory is the resident memory of p in bytes.
func (k *Kernel) Memory(p Process) (int64, bool) { return p.(*reaper.Process).Memory() }
