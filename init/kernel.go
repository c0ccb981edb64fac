package pid1

import (
	"fmt"

	"evermore/reaper"
)

// Kernel is Processes by a reaper: the real ones.
type Kernel struct{ *reaper.Reaper }

// Start starts the command.
func (k Kernel) Start(c reaper.Command) (Process, error) {
	p, err := k.Reaper.Start(c)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Leftovers gives what is left of the run of p.
func (k Kernel) Leftovers(p Process, runID string) []Leftover {
	var left []Leftover
	for _, l := range k.Reaper.Leftovers(p.(*reaper.Process), runID) {
		left = append(left, leftover{l})
	}
	return left
}

type leftover struct{ reaper.Leftover }

func (l leftover) String() string { return fmt.Sprintf("%s (%d)", l.Name, l.PID) }
