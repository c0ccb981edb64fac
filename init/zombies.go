package pid1

import (
	"time"

	"evermore/reaper"
)

// Nobody tells of a zombie that its living parent neglects: it has to be looked
// for. That happens at growing intervals after a start, and when a probe asks
// for the app's health, so that an idle supervisor sleeps.
const (
	lookoutFirst   = 3 * time.Second
	lookoutGrowth  = 10
	lookoutLast    = time.Hour
	lookoutConfirm = time.Second // a zombie that is found again after it is neglected
	lookoutProbed  = time.Minute
	// zombiesTold bounds what is remembered of those that were told.
	zombiesTold = 1000
)

type zombieWatch struct {
	interval time.Duration
	lastLook time.Time
	seen     map[reaper.Zombie]bool // found by the last look
	told     map[reaper.Zombie]bool
}

// restart begins the intervals anew and gives the first.
func (z *zombieWatch) restart() time.Duration {
	z.interval = lookoutFirst
	return z.interval
}

// lookForZombies: it is time to look.
func (a *App) lookForZombies() {
	a.lookForOOMKills(0)
	z := &a.zombies
	z.lastLook = time.Now()
	found := a.procs.Zombies()
	seen := make(map[reaper.Zombie]bool, len(found))
	confirm := false
	for _, f := range found {
		switch {
		case z.told[f]:
		case z.seen[f]:
			if len(z.told) >= zombiesTold {
				z.told = nil
			}
			if z.told == nil {
				z.told = make(map[reaper.Zombie]bool)
			}
			z.told[f] = true
			a.emit(Event{Kind: ZombieFound, PID: f.PID, ParentPID: f.ParentPID, Name: f.ParentName})
		default:
			seen[f], confirm = true, true
		}
	}
	z.seen = seen
	if confirm {
		a.lookout.set(lookoutConfirm)
		return
	}
	z.interval = min(lookoutGrowth*z.interval, lookoutLast)
	a.lookout.set(z.interval)
}

// pinged: a probe asked whether the loop is alive.
func (a *App) pinged() {
	a.lookForOOMKills(0)
	if a.state == StateRunning && time.Since(a.zombies.lastLook) >= lookoutProbed {
		a.lookForZombies()
	}
}
