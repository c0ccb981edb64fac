package control

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxDeaths is how many deaths a ledger keeps.
	maxDeaths = 20
	// maxRestarts is how many restarts a ledger keeps at the most: whoever allows more
	// has the limit count those since the last start of evermore besides.
	maxRestarts = 1000
	// maxLedger is more than a ledger ever has.
	maxLedger = 1 << 20
	// ledgerVersion is the version of the file; one of another is set aside.
	ledgerVersion = 1
	// ledgerPause is the least time between two writings: an app that cannot start
	// may try a hundred times a second.
	ledgerPause = 100 * time.Millisecond
	// ledgerAge is for how long the ledger of an app that does not run is kept.
	ledgerAge = 30 * 24 * time.Hour
)

// Ledger is the story of an app: its last deaths, what was counted, and the
// restarts that a limit on their rate counts. It is kept in a file of the state
// folder, so that the app's next supervisor goes on with it. Its methods may be
// called from any goroutine, and never wait for the file.
type Ledger struct {
	key  string
	keep int // how many restarts

	mu      sync.Mutex
	past    ledgerFile // what was on file
	now     ledgerFile // what has happened since
	changed chan struct{}
	closing chan struct{}
	done    chan struct{} // closed when nothing is written any more; nil: nothing ever was
}

// ledgerFile is what is written.
type ledgerFile struct {
	Version int    `json:"version"`
	UID     string `json:"uid,omitempty"`
	Boot    string `json:"boot"` // in which Up of the moments means something
	Counts  Counts `json:"counts"`
	// Recent are the restarts that count, oldest first.
	Recent []moment `json:"recent,omitempty"`
	// Runs have begun and not ended: one of each process of the app, and for a
	// while two where one takes the place of another.
	Runs   []openRun `json:"runs,omitempty"`
	Deaths []Death   `json:"deaths"` // oldest first
}

type openRun struct {
	moment
	PID int `json:"pid"`
}

// moment is a point in time that is known still when the wall clock was set: Up is
// the time since boot, that in suspension included (CLOCK_BOOTTIME, clock_gettime(2)).
type moment struct {
	At time.Time     `json:"at"`
	Up time.Duration `json:"up"`
}

func uptime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

func momentNow() moment { return moment{time.Now().Round(0), uptime()} }

// age is how long ago the moment was: never less than 0, and no longer than sums
// of it can be.
func (m moment) age(sameBoot bool) time.Duration {
	age := time.Since(m.At)
	if sameBoot {
		age = uptime() - m.Up
	}
	return min(max(age, 0), 10*365*24*time.Hour)
}

// renewed is the moment of that age on the clocks of now.
func (m moment) renewed(sameBoot bool) moment { return moment{m.At, uptime() - m.age(sameBoot)} }

// LedgerKey names the ledger of an app: uid where that was chosen, else what is
// run and where, of which it holds a hash.
func LedgerKey(uid string, argv []string, dir string) string {
	if uid != "" {
		return "uid." + uid
	}
	sum := sha256.Sum256([]byte(strings.Join(append([]string{dir}, argv...), "\x00")))
	return "command." + hex.EncodeToString(sum[:8])
}

// NewLedger begins the ledger of a key, of an app that is called uid; it is not
// on file before Keep. restarts is how many of those that count are to be known, as
// far as there is room.
func NewLedger(key, uid string, restarts int) *Ledger {
	return &Ledger{
		key: key, keep: min(restarts, maxRestarts),
		now:     ledgerFile{Version: ledgerVersion, UID: uid, Counts: newCounts(time.Now().Round(0)), Deaths: []Death{}},
		changed: make(chan struct{}, 1), closing: make(chan struct{}),
	}
}

// change changes what has happened, and has it written.
func (l *Ledger) change(f func(*ledgerFile)) {
	l.mu.Lock()
	f(&l.now)
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// Began: a run has begun.
func (l *Ledger) Began(pid int) {
	l.change(func(f *ledgerFile) {
		f.Counts.Starts++
		f.Runs = append(f.Runs, openRun{momentNow(), pid})
	})
}

// Died: the run of that pid has ended; or, without one, a run could not begin.
func (l *Ledger) Died(d Death) {
	l.change(func(f *ledgerFile) {
		f.Runs = slices.DeleteFunc(f.Runs, func(r openRun) bool { return r.PID == d.PID })
		f.died(d)
	})
}

func (f *ledgerFile) died(d Death) {
	code := "unknown"
	if d.Code != nil {
		code = strconv.Itoa(*d.Code)
	}
	f.Counts.exit(d.Reason, code)
	f.Deaths = append(f.Deaths, d)
	f.Deaths = f.Deaths[max(len(f.Deaths)-maxDeaths, 0):]
}

// Restarted: a run begins again. counted says that a limit counts it.
func (l *Ledger) Restarted(reason string, counted bool) {
	l.change(func(f *ledgerFile) {
		f.Counts.Restarts[reason]++
		if counted {
			f.Recent = append(f.Recent, momentNow())
			f.Recent = f.Recent[max(len(f.Recent)-l.keep, 0):]
		}
	})
}

// OOMKilled: the kernel has killed so many processes for want of memory.
func (l *Ledger) OOMKilled(n int) { l.change(func(f *ledgerFile) { f.Counts.OOMKills += n }) }

// StopKilled: the app was sent SIGKILL because it had not ended.
func (l *Ledger) StopKilled() { l.change(func(f *ledgerFile) { f.Counts.StopKills++ }) }

// Ended: nothing runs any more.
func (l *Ledger) Ended() { l.change(func(f *ledgerFile) { f.Runs = nil }) }

// Deaths gives the story so far.
func (l *Ledger) Deaths() Deaths { return l.all().story() }

// all is what was on file and what has happened since.
func (l *Ledger) all() ledgerFile {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.now
	f.Counts = newCounts(f.Counts.Since)
	f.Counts.add(l.now.Counts)
	f.Counts.add(l.past.Counts)
	f.Runs = slices.Clone(f.Runs)
	f.Deaths = slices.Concat(l.past.Deaths, l.now.Deaths)
	f.Deaths = f.Deaths[max(len(f.Deaths)-maxDeaths, 0):]
	f.Recent = slices.Concat(l.past.Recent, l.now.Recent)
	f.Recent = f.Recent[max(len(f.Recent)-l.keep, 0):]
	return f
}

func (f ledgerFile) story() Deaths {
	d := Deaths{UID: f.UID, Counts: f.Counts, Deaths: slices.Clone(f.Deaths)}
	slices.Reverse(d.Deaths)
	if d.Deaths == nil {
		d.Deaths = []Death{}
	}
	return d
}

// Past is what earlier supervisors of the app have left.
type Past struct {
	Counts Counts
	// Restarts is how long ago those restarts were that count, oldest first.
	Restarts []time.Duration
	// Lost is how many runs had no end on record: their supervisor was ended together
	// with them, and that has been put on record now.
	Lost int
}

// Keep goes on with what is on file of the app in the Root, and keeps it there,
// until Close; without a root it does nothing. It works in the background: a disk that hangs holds up nobody.
// taken is told what there was, warn what fails, each failure once. adopted are the
// pids of runs on file that go on.
func (l *Ledger) Keep(adopted []int, taken func(Past), warn func(error)) {
	l.done = make(chan struct{})
	go func() {
		defer close(l.done)
		root, err := Root()
		if err != nil {
			return
		}
		lock, err := l.lock(root)
		if err != nil {
			warn(err)
			return
		}
		defer lock.Release()
		if err := l.take(root, adopted, taken); err != nil {
			warn(fmt.Errorf("the story of this app begins anew: %w", err))
		}
		pruneLedgers(root)
		l.write(root, warn)
	}()
}

// lock makes the ledger's file this supervisor's alone.
func (l *Ledger) lock(root string) (*Lock, error) {
	dir := ledgerDir(root)
	err := mkdir(dir)
	if err == nil {
		err = private(dir)
	}
	var lock *Lock
	if err == nil {
		lock, err = lockFile(l.path(root) + ".lock")
	}
	switch {
	case errors.Is(err, ErrTaken):
		return nil, errors.New("the story of this app is kept by another supervisor that runs: this one has its own in memory only; --uid NAME tells two apps of the same command apart")
	case err != nil:
		return nil, l.notKept(err)
	}
	return lock, nil
}

// take takes up what is on file. What cannot be read is set aside.
func (l *Ledger) take(root string, adopted []int, taken func(Past)) error {
	path := l.path(root)
	past, err := readLedger(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		aside := path + ".bad"
		if e := os.Rename(path, aside); e != nil {
			return fmt.Errorf("%w, nor keep it aside: %w", err, e)
		}
		return fmt.Errorf("%w; it is kept as %s", err, aside)
	}
	boot := bootID()
	same := past.Boot != "" && past.Boot == boot
	past.Runs = slices.DeleteFunc(past.Runs, func(r openRun) bool { return slices.Contains(adopted, r.PID) })
	p := Past{Lost: len(past.Runs)}
	past.lose(same)
	for i, m := range past.Recent {
		past.Recent[i] = m.renewed(same)
		p.Restarts = append(p.Restarts, m.age(same))
	}
	p.Counts = newCounts(past.Counts.Since)
	p.Counts.add(past.Counts)
	l.mu.Lock()
	l.past = past
	l.mu.Unlock()
	taken(p)
	return nil
}

func (l *Ledger) notKept(err error) error {
	return fmt.Errorf("the story of this app is not kept, evermore why knows this run only: %w", err)
}

// write writes what has changed, until Close.
func (l *Ledger) write(root string, warn func(error)) {
	boot, told := bootID(), false
	save := func() {
		f := l.all()
		f.Boot = boot
		if err := f.save(l.path(root)); err != nil && !told {
			told = true
			warn(l.notKept(err))
		}
	}
	save()
	for open := true; open; {
		select {
		case <-l.changed:
			save()
			select {
			case <-time.After(ledgerPause):
			case <-l.closing:
			}
		case <-l.closing:
			save()
			open = false
		}
	}
}

// Close writes what has happened last, if that takes no longer than the limit.
func (l *Ledger) Close(limit time.Duration) {
	if l.done == nil {
		return
	}
	close(l.closing)
	select {
	case <-l.done:
	case <-time.After(limit):
	}
}

// Story is what a ledger on file says.
type Story struct {
	Key, Root string
	Deaths
}

// ReadLedgers gives the ledgers in all roots where something may be, those of the
// first root first.
func ReadLedgers() []Story {
	var all []Story
	seen := map[string]bool{}
	for _, root := range candidates(os.Getenv, "/run", "/dev/shm") {
		dir := ledgerDir(root.path)
		if seen[dir] || private(root.path) != nil || private(dir) != nil {
			continue
		}
		seen[dir] = true
		for _, path := range ledgers(dir) {
			if f, err := readLedger(path); err == nil {
				all = append(all, Story{strings.TrimSuffix(filepath.Base(path), ".json"), root.path, f.lost().story()})
			}
		}
	}
	return all
}

// lost gives the story of an app that nobody supervises: a run that has no end was
// lost.
func (f ledgerFile) lost() ledgerFile {
	f.lose(f.Boot == bootID())
	return f
}

// lose puts the end of the runs on record that have none.
func (f *ledgerFile) lose(sameBoot bool) {
	for _, r := range f.Runs {
		f.died(Death{At: time.Now().Round(0), UptimeMS: r.age(sameBoot).Milliseconds(), Reason: "lost", PID: r.PID})
	}
	f.Runs = nil
}

// ledgers are the files in the folder.
func ledgers(dir string) []string {
	var paths []string
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if name := f.Name(); strings.HasSuffix(name, ".json") && !strings.HasPrefix(name, ".") {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths
}

func ledgerDir(root string) string { return filepath.Join(root, "deaths") }

func (l *Ledger) path(root string) string { return filepath.Join(ledgerDir(root), l.key+".json") }

func (f ledgerFile) save(path string) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return replace(path, text)
}

func readLedger(path string) (ledgerFile, error) {
	var f ledgerFile
	info, err := os.Lstat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxLedger) {
		err = fmt.Errorf("%s is no ledger of evermore's", path)
	}
	if err != nil {
		return f, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return f, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if f.Version != ledgerVersion {
		return f, fmt.Errorf("cannot read %s: it is of version %d", path, f.Version)
	}
	if !f.Counts.valid() {
		return f, fmt.Errorf("cannot read %s: a count is negative", path)
	}
	counts := newCounts(f.Counts.Since)
	counts.add(f.Counts) // none of its maps is nil
	f.Counts = counts
	return f, nil
}

// pruneLedgers deletes the ledgers of apps that have not run for long: a script
// without a uid of its own has a new one at each start.
func pruneLedgers(root string) {
	for _, path := range ledgers(ledgerDir(root)) {
		info, err := os.Lstat(path)
		if err != nil || time.Since(info.ModTime()) < ledgerAge {
			continue
		}
		if lock, err := lockFile(path + ".lock"); err == nil { // an app may run that long and die never
			_ = os.Remove(path)
			lock.Release()
		}
	}
}

func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return cmp.Or(strings.TrimSpace(string(text)), "unknown")
}
