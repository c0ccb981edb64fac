package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Record is what a running supervisor tells the commands of its user. It is a
// file of mode 0600 in the folder run of the root.
type Record struct {
	// HTTP is the address where it listens, "" for none. A port 0 that was asked
	// for is the port that was got.
	HTTP string `json:"http"`

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
}

// Register writes the record of this process, until remove is called. A
// supervisor that is killed leaves its record behind: Running knows it for dead.
func Register(r Record) (remove func(), err error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	return r.register(root)
}

func (r Record) register(root string) (remove func(), err error) {
	if err := r.identify(); err != nil {
		return nil, fmt.Errorf("cannot record this supervisor: %w", err)
	}
	dir := filepath.Join(root, "run")
	if err := mkdir(dir); err != nil {
		return nil, err
	}
	if err := private(dir); err != nil {
		return nil, err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, r.file())
	// A reader never sees half a record: rename(2) is atomic.
	unfinished := filepath.Join(dir, "."+r.file())
	if err := os.WriteFile(unfinished, text, 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(unfinished, path); err != nil {
		return nil, err
	}
	return func() { os.Remove(path) }, nil
}

// Running gives the records of the supervisors that run, of this user and in
// this pid namespace. The records of dead ones are deleted.
func Running() ([]Record, error) {
	return running(candidates(os.Getenv, "/run", "/dev/shm"))
}

func running(roots []candidate) ([]Record, error) {
	var here Record
	if err := here.identify(); err != nil {
		return nil, fmt.Errorf("cannot tell which supervisors run: %w", err)
	}
	var records []Record
	seen := map[string]bool{}
	for _, root := range roots {
		dir := filepath.Join(root.path, "run")
		if seen[dir] || private(root.path) != nil || private(dir) != nil {
			continue
		}
		seen[dir] = true
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			path := filepath.Join(dir, entry.Name())
			r, err := read(path)
			if err != nil {
				// It was removed this moment, is not finished, or not evermore's.
				continue
			}
			switch here.judge(r) {
			case alive:
				records = append(records, r)
			case dead:
				os.Remove(path)
			}
		}
	}
	return records, nil
}

// maxRecord is more than a record ever has.
const maxRecord = 64 << 10

func read(path string) (Record, error) {
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

type verdict int

const (
	elsewhere verdict = iota // it can't be told from here
	alive
	dead
)

// judge tells whether the process of r runs, seen from the process of here.
func (here Record) judge(r Record) verdict {
	switch {
	case r.Host == here.Host && r.Boot != here.Boot:
		return dead
	case r.Host != here.Host || r.Namespace != here.Namespace:
		return elsewhere
	}
	started, err := startTime(strconv.Itoa(r.PID))
	if err != nil || started != r.StartTime {
		return dead
	}
	return alive
}

// identify fills in which process this is, and where.
func (r *Record) identify() (err error) {
	r.PID = os.Getpid()
	if r.StartTime, err = startTime("self"); err != nil {
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
// containers that share a home folder.
func (r *Record) file() string {
	host := strings.ReplaceAll(r.Host, "/", "_")
	return fmt.Sprintf("%s.%s.%d.json", host, r.Namespace, r.PID)
}

// startTime reads when a process began, in clock ticks since boot; a zombie has
// ended: fs.ErrNotExist.
func startTime(pid string) (uint64, error) {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0, err
	}
	// The second field, the name, may hold anything: its end is the last ")".
	// The state is field 3 and the start time field 22, see proc_pid_stat(5).
	stat := string(text)
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("cannot read /proc/%s/stat", pid)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fs.ErrNotExist
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
