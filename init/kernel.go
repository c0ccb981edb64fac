package pid1

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"evermore/cgroup"
	"evermore/reaper"
)

// Kernel is Processes by a reaper: the real ones.
type Kernel struct {
	*reaper.Reaper
	// First, when not nil, gives the first start, which has been made already.
	First func() (*reaper.Process, error)

	group *cgroup.Group // see Group
	once  sync.Once
}

// Group is the control group of evermore and the app. It is looked for when it is
// first asked for.
func (k *Kernel) Group() *cgroup.Group {
	k.once.Do(func() { k.group = cgroup.Own("/") })
	return k.group
}

// OOMKills is how many processes of the group the out-of-memory killer has killed.
func (k *Kernel) OOMKills() (n uint64, ok bool) { return k.Group().OOMKills() }

// Usage is what the group uses now. What limits it takes longer to read than all
// the rest, and is left as it was before where that is given.
func (k *Kernel) Usage(before *Usage) Usage {
	g := k.Group()
	var u Usage
	if before != nil {
		u.MemoryLimit, u.KillsWhole = before.MemoryLimit, before.KillsWhole
	} else {
		u.MemoryLimit, _ = g.MemoryLimit()
		u.KillsWhole = g.KillsWhole()
	}
	u.Memory, _ = g.MemoryUsed()
	u.Throttling, u.Throttles = g.Throttling()
	return u
}

// Headroom is how much of its memory limit the group has left, in bytes.
func (k *Kernel) Headroom() (left, limit int64, ok bool) {
	g := k.Group()
	limit, ok = g.MemoryLimit()
	used, known := g.WorkingSet()
	return max(limit-used, 0), limit, ok && known
}

// ownMemory is more than evermore ever has resident.
const ownMemory = 16 << 20

// Sacrifice has the out-of-memory killer take p rather than evermore.
//
// The killer takes the process with the most points: the memory that it has, and
// oom_score_adj thousandths of all memory that there is to have - of the group's
// limit, or of the machine's memory and swap (oom_badness in the kernel's
// mm/oom_kill.c). So the amount is evermore's own memory in thousandths: an app
// that has just begun, and is smaller than evermore, goes first all the same, and
// among the pods of a machine next to nothing changes.
func (k *Kernel) Sacrifice(p Process) {
	total, ok := k.Group().MemoryLimit()
	if !ok {
		var info unix.Sysinfo_t
		if unix.Sysinfo(&info) != nil {
			return
		}
		total = int64((uint64(info.Totalram) + uint64(info.Totalswap)) * uint64(info.Unit)) //nolint:unconvert // the types differ by architecture
	}
	const thousandths = 1000
	// Who may not raise it leaves the kernel to its own choice, which is mostly the
	// same: the biggest one.
	_ = p.(*reaper.Process).RaiseOOMScore(int(ownMemory*thousandths/max(total, ownMemory)) + 1)
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
