package control

import (
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

	"evermore/reaper"
)

// Record is what a supervisor tells the commands of its user. It is a file of
// mode 0600 in the folder run of the root.
type Record struct {
	// HTTP is the address where it listens, "" for none. A port 0 that was asked
	// for is the port that was got.
	HTTP string `json:"http"`
	App
	// Recipe is how the app is started again. Its Env is there only when the
	// supervisor has ended: a running one tells it.
	Recipe Recipe `json:"recipe"`
	// Child is the app's process, where it outlives a killed supervisor.
	Child *Child `json:"child,omitempty"`
	// Mark finds the app's process where Child could not be written in time: see
	// reaper.Survivor. Empty: the app does not outlive a killed supervisor.
	Mark string `json:"mark,omitempty"`
	// Ended is how the app ended by itself; nil: it runs.
	Ended *Ended `json:"ended,omitempty"`
	// Ledger is the key of the app's Ledger.
	Ledger string `json:"ledger,omitempty"`
	// Started is when the supervisor began.
	Started time.Time `json:"started"`

	// Register fills in what follows. Two processes are the same when all of it
	// is equal: a pid alone is used again.

	PID int `json:"pid"`
	// StartTime is in clock ticks since boot, see proc_pid_stat(5).
	StartTime uint64 `json:"start_time"`
	// Host, Boot and Namespace say where PID means something: a home folder may
	// be shared by machines and by containers.
	Host      string `json:"host"`
	Boot      string `json:"boot"`
	Namespace string `json:"pid_namespace"`

	root string // where it was found
}

// App is what an app is called and where its files are.
type App struct {
	UID     string   `json:"uid"`
	ID      string   `json:"id,omitempty"`
	Command []string `json:"command"` // what runs Script; with -- COMMAND all there is
	// Script is as it was given; empty with -- COMMAND.
	Script    string   `json:"script,omitempty"`
	Args      []string `json:"args"`
	Dir       string   `json:"dir"`        // where the app runs
	SourceDir string   `json:"source_dir"` // where a relative Script is
	LogFile   string   `json:"log_file,omitempty"`
	OutFile   string   `json:"out_file,omitempty"`
	ErrFile   string   `json:"err_file,omitempty"`
	PIDFile   string   `json:"pid_file,omitempty"`
	Daemon    bool     `json:"daemon"`
}

// Recipe is how a supervisor is started again: the arguments of evermore, the
// folder that relative ones begin in, and the environment.
type Recipe struct {
	Program string   `json:"program"` // evermore or forever
	Args    []string `json:"args"`
	Dir     string   `json:"dir"`
	Env     []string `json:"env,omitempty"`
}

// Child names a process for good.
type Child struct {
	PID       int       `json:"pid"`
	StartTime uint64    `json:"start_time"` // in clock ticks since boot
	StartedAt time.Time `json:"started_at"`
}

// Ended is how an app ended that nobody stopped.
type Ended struct {
	At     time.Time `json:"at"`
	Code   int       `json:"code"` // evermore's exit code
	Reason string    `json:"reason,omitempty"`
	PID    int       `json:"pid,omitempty"` // of the last run
}

// Status is what the record of a supervisor says of it.
type Status string

const (
	Running      Status = "running"
	Stopped      Status = "stopped"      // the app ended by itself and is remembered
	Unsupervised Status = "unsupervised" // the supervisor was killed, the app was not
	Elsewhere    Status = "elsewhere"    // on another machine or in another container: nothing is known of it
)

// Entry is a record and what it means now.
type Entry struct {
	Record
	Status Status
}

// Registration is the record of this process.
type Registration struct {
	mu      sync.Mutex // held while the file is written
	record  Record
	removed bool
}

// Register writes the record of this process into the root, until Remove is called. A supervisor that
// is killed leaves its record behind: List knows it for dead.
func Register(r Record, root string) (*Registration, error) {
	if err := r.identify(); err != nil {
		return nil, fmt.Errorf("cannot record this supervisor: %w", err)
	}
	r.root = root
	reg := &Registration{record: r}
	return reg, reg.save()
}

// Update changes the record.
func (reg *Registration) Update(change func(*Record)) error {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	change(&reg.record)
	return reg.save()
}

// Renew writes the record anew where somebody has deleted it.
func (reg *Registration) Renew() {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if _, err := os.Lstat(reg.record.path(reg.record.root)); errors.Is(err, fs.ErrNotExist) && !reg.removed {
		_ = reg.save() // it is found by its socket all the same
	}
}

// Remove forgets the supervisor.
func (reg *Registration) Remove() {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	reg.removed = true
	_ = os.Remove(reg.record.path(reg.record.root))
}

func (reg *Registration) save() error {
	r := reg.record
	path := r.path(r.root)
	dir := filepath.Dir(path)
	for _, folder := range []string{r.root, dir} {
		if err := mkdir(folder); err != nil {
			return err
		}
	}
	if err := private(dir); err != nil {
		return err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return replace(path, text)
}

// replace writes a file anew. A reader never sees half of it: rename(2) is atomic.
func replace(path string, text []byte) error {
	unfinished := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	err := os.WriteFile(unfinished, text, 0o600)
	if err == nil {
		err = os.Rename(unfinished, path)
	}
	if err != nil {
		_ = os.Remove(unfinished)
	}
	return err
}

// Forget deletes the record of a supervisor that is dead.
func (e Entry) Forget() {
	_ = os.Remove(e.path(e.root))
	_ = os.Remove(filepath.Join(e.root, "sock", e.socket()))
}

// List gives what is on record for this user, oldest first, in all roots where
// something may be. The records of the dead that left nothing are deleted.
func List() ([]Entry, error) { return list(candidates(os.Getenv, "/run", "/dev/shm")) }

func list(roots []candidate) ([]Entry, error) {
	var here Record
	if err := here.identify(); err != nil {
		return nil, fmt.Errorf("cannot tell which supervisors run: %w", err)
	}
	var entries []Entry
	seen, known := map[string]bool{}, map[string]bool{}
	for _, root := range roots {
		dir := filepath.Join(root.path, "run")
		if seen[dir] {
			continue
		}
		seen[dir] = true
		var files []fs.DirEntry
		if private(root.path) == nil && private(dir) == nil {
			var err error
			if files, err = os.ReadDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		for _, file := range files {
			forgetUnfinished(dir, file)
			r, err := read(filepath.Join(dir, file.Name()))
			if err != nil {
				// It was removed this moment, is not finished, or not evermore's.
				continue
			}
			r.root = root.path
			e := Entry{r, here.judge(&r)}
			e.Record = r
			// It may have written its end, and died, since it was read. Nobody writes any more.
			if e.Status != Running && !e.Review() && e.Status != dead {
				continue // it was removed
			}
			switch {
			case e.Status == dead:
				e.Forget()
			case !known[r.file()]:
				known[r.file()] = true
				entries = append(entries, e)
			}
		}
		entries = append(entries, here.strays(root.path, known)...)
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		if c := a.Started.Compare(b.Started); c != 0 {
			return c
		}
		return a.PID - b.PID
	})
	return withoutOlder(entries), nil
}

// withoutOlder leaves one record of each app that lost its supervisor: one that was
// killed while it adopted the app leaves its own beside the older one.
func withoutOlder(entries []Entry) []Entry {
	last := map[Child]int{}
	for i, e := range entries {
		if e.Status == Unsupervised {
			last[Child{PID: e.Child.PID, StartTime: e.Child.StartTime}] = i
		}
	}
	kept := entries[:0]
	for i, e := range entries {
		if e.Status == Unsupervised && last[Child{PID: e.Child.PID, StartTime: e.Child.StartTime}] != i {
			e.Forget()
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

// unfinishedTime is longer than the writing of a record takes.
const unfinishedTime = time.Hour

// forgetUnfinished deletes a record in whose writing a supervisor was killed.
func forgetUnfinished(dir string, file fs.DirEntry) {
	if !strings.HasPrefix(file.Name(), ".") || filepath.Ext(file.Name()) != ".json" {
		return
	}
	if info, err := file.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > unfinishedTime {
		_ = os.Remove(filepath.Join(dir, file.Name()))
	}
}

// maxRecord is more than a record ever has: an environment is in it.
const maxRecord = 8 << 20

func read(path string) (Record, error) {
	if !strings.HasSuffix(path, ".json") {
		return Record{}, errors.New("not the record of a supervisor")
	}
	// Whatever else lies there is neither followed nor waited for.
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxRecord {
		return Record{}, errors.Join(err, errors.New("not the record of a supervisor"))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Record{}, err
	}
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return Record{}, err
	}
	if r.PID <= 0 || r.file() != filepath.Base(path) {
		return Record{}, errors.New("not the record of a supervisor")
	}
	return r, nil
}

// dead is what judge says of records that List deletes.
const dead Status = "dead"

// judge tells what has become of the supervisor of r, seen from the process of
// here.
func (here Record) judge(r *Record) Status {
	switch {
	case r.Boot != here.Boot && r.Host == here.Host:
		return dead
	case r.Boot != here.Boot || r.Namespace != here.Namespace: // a host may be renamed while it runs
		return Elsewhere
	case lives(r.PID, r.StartTime):
		return Running
	case r.Ended != nil:
		return Stopped
	case r.Child != nil && lives(r.Child.PID, r.Child.StartTime):
		return Unsupervised
	}
	if a, ok := reaper.Survivor(r.Mark, r.StartTime); ok {
		r.Child = &Child{PID: a.PID, StartTime: a.StartTime, StartedAt: a.StartedAt}
		return Unsupervised
	}
	return dead
}

// lives tells whether the process, and not another one with its pid, is there
// and not a zombie. One that cannot be looked at (there are no descriptors) lives:
// the records of the dead are deleted.
func lives(pid int, start uint64) bool {
	started, err := reaper.StartTime(pid)
	if err != nil {
		return !errors.Is(err, reaper.ErrGone)
	}
	return started == start
}

// identify fills in which process this is, and where.
func (r *Record) identify() (err error) {
	r.PID = os.Getpid()
	if r.StartTime, err = reaper.StartTime(r.PID); err != nil {
		return err
	}
	if r.Host, err = os.Hostname(); err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	r.Boot = strings.TrimSpace(string(boot))
	// "pid:[4026531836]"
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return err
	}
	r.Namespace = strings.Trim(ns, "pid:[]")
	return nil
}

// file is the name of the record's file: the pid alone would be the same in two
// containers that share a home folder, and is used again.
func (r *Record) file() string {
	host := strings.ReplaceAll(r.Host, "/", "_")
	return fmt.Sprintf("%s.%s.%d.%d.json", host, r.Namespace, r.PID, r.StartTime)
}

func (r *Record) path(root string) string { return filepath.Join(root, "run", r.file()) }

// socket is the name of the supervisor's socket in the folder sock of its root.
func (r *Record) socket() string { return r.name() + ".sock" }

// name is the same in a few bytes: a socket's address has room for 107. The boot
// stands for the host: on copies of one machine all the rest may be equal.
func (r *Record) name() string {
	return r.Boot[:min(len(r.Boot), 8)] + "." + r.Namespace + "." + strconv.Itoa(r.PID) + "." + strconv.FormatUint(r.StartTime, 10)
}

// Root is evermore's folder in which the record was found.
func (r *Record) Root() string { return r.root }

// Alive tells whether the supervisor runs still.
func (r *Record) Alive() bool { return lives(r.PID, r.StartTime) }

// Review judges the entry anew and tells whether anything of it is left.
func (e *Entry) Review() bool {
	var here Record
	if here.identify() != nil {
		return true
	}
	r, err := read(e.path(e.root))
	if err != nil {
		return false
	}
	r.root = e.root
	e.Status = here.judge(&r)
	e.Record = r
	return e.Status != dead
}
