package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"evermore/control"
)

const (
	// answerTime is how long a supervisor may take to say how it is, and no other one
	// says anything either: then it is UNRESPONSIVE.
	answerTime = 800 * time.Millisecond
	askPause   = 10 * time.Millisecond
	// askedAtOnce bounds the descriptors that asking takes.
	askedAtOnce = 256
)

// app is an app that is on record, and what its supervisor says of it.
type app struct {
	control.Entry
	program string         // whose words list uses: evermore's or forever's
	at      time.Time      // when it was as it is here
	state   *control.State // nil: nobody answers
	err     error          // why
	used    *use           // what it took when it was last looked at; nil: it was not
}

// apps gives all apps in evermore's folder. Their supervisors are asked how they
// are, all at once.
func (s *settings) apps() ([]*app, error) {
	entries, err := control.List()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// As long as there are answers, the machine is busy and nobody is frozen.
	silence := time.AfterFunc(answerTime, cancel)
	defer silence.Stop()
	entries = slices.DeleteFunc(entries, func(e control.Entry) bool { return e.Status == control.Elsewhere })
	list := make([]*app, len(entries))
	slots := make(chan struct{}, askedAtOnce)
	var wait sync.WaitGroup
	for i, e := range entries {
		a := &app{Entry: e, program: s.program}
		list[i] = a
		if e.Status != control.Running {
			continue
		}
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			a.ask(ctx)
			silence.Reset(answerTime)
		})
	}
	wait.Wait()
	kept := list[:0]
	for _, a := range list {
		a.at = time.Now()
		// One that ended while it was asked is what it is now, or none any more.
		if a.state != nil || a.Status != control.Running || a.Review() {
			kept = append(kept, a)
		}
	}
	return kept, nil
}

// ask asks the supervisor how it is. One that lives and refuses to be asked has
// just begun, or is dying: it is asked again.
func (a *app) ask(ctx context.Context) {
	for {
		state, err := a.State(ctx)
		if err == nil {
			a.state = &state
			a.App = state.App // its record may have been lost
			return
		}
		if ctx.Err() != nil {
			err = control.ErrUnresponsive
		}
		a.err = err
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) || !a.Alive() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(askPause):
		}
	}
}

// status is what list says of an app that is not simply up.
func (a *app) status() string {
	switch {
	case a.Status == control.Unsupervised:
		return "UNSUPERVISED"
	case a.Status == control.Stopped:
		return "STOPPED"
	case a.state == nil:
		return "UNRESPONSIVE"
	case a.program == "forever":
		return "" // it counts a pause as uptime
	}
	return map[string]string{"backoff": "WAITING", "stopping": "STOPPING", "preparing": "PREPARING"}[a.state.State]
}

// pid is the app's process, or that of its last run; 0: unknown.
func (a *app) pid() int {
	switch {
	case a.state != nil && a.state.PID != 0:
		return a.state.PID
	case a.state != nil:
		return a.state.LastPID
	case a.Child != nil:
		return a.Child.PID
	case a.Ended != nil:
		return a.Ended.PID
	}
	return 0
}

// livePIDs are all processes of the app that run.
func (a *app) livePIDs() []int {
	if a.state == nil || len(a.state.Workers) == 0 {
		return slices.DeleteFunc([]int{a.livePID()}, func(pid int) bool { return pid == 0 })
	}
	var pids []int
	for _, w := range a.state.Workers {
		if w.PID != 0 {
			pids = append(pids, w.PID)
		}
	}
	return pids
}

// livePID is the app's process while it runs; 0: it does not.
func (a *app) livePID() int {
	switch {
	case a.state != nil:
		return a.state.PID
	case a.Status == control.Unsupervised:
		return a.Child.PID
	}
	return 0
}

// script is how forever writes it: the file and its arguments.
func (a *app) script() string {
	if a.Script == "" {
		return ""
	}
	return strings.Join(append([]string{a.file()}, a.Args...), " ")
}

// file is the script as forever writes it: less the folder that it is looked for in.
func (a *app) file() string {
	switch file := a.Script; {
	case file == "", file == "./":
		return ""
	case file == ".":
		return a.SourceDir
	case filepath.IsAbs(file):
		return file
	default:
		return filepath.Clean(file)
	}
}

// scriptPath is where the script is; "": there is none.
func (a *app) scriptPath() string {
	if a.Script == "" || filepath.IsAbs(a.Script) {
		return a.Script
	}
	return filepath.Join(a.SourceDir, a.Script)
}

// find gives the apps that a target means, by the rules of forever: a script, an
// id, an index of list, a uid, a pid - the first of these that any app matches.
func find(all []*app, target string) []*app {
	abs, err := filepath.Abs(target)
	index, notNumber := strconv.Atoi(target)
	for _, matches := range []func(int, *app) bool{
		func(_ int, a *app) bool {
			return notNumber != nil && err == nil && a.Script != "" && a.scriptPath() == abs
		},
		func(_ int, a *app) bool { return a.ID != "" && a.ID == target },
		func(i int, _ *app) bool { return notNumber == nil && i == index },
		func(_ int, a *app) bool { return a.UID == target },
		func(_ int, a *app) bool {
			return notNumber == nil && (a.pid() == index || slices.Contains(a.livePIDs(), index))
		},
		func(_ int, a *app) bool { return notNumber == nil && a.PID == index },
		func(_ int, a *app) bool { return a.Script != "" && a.Script == target },
	} {
		var found []*app
		for i, a := range all {
			if matches(i, a) {
				found = append(found, a)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// choose gives the apps of all targets, each once, in the order of list. Without
// a target it is the only app that there is. missing are the targets that mean
// none.
func (s *settings) choose(targets []string, action string) (chosen []*app, missing []string, err error) {
	all, err := s.apps()
	if err != nil {
		return nil, nil, err
	}
	if len(targets) == 0 {
		if len(all) != 1 {
			return nil, nil, usage("%s needs a target: an index, uid, id, pid or script of %s list", action, s.program)
		}
		return all, nil, nil
	}
	var wanted []string
	for _, t := range targets {
		if of := s.targetsOf(t); of != nil && len(find(all, t)) == 0 {
			wanted = append(wanted, of...)
			continue
		}
		wanted = append(wanted, t)
	}
	chosen, missing = among(all, wanted)
	if slices.Contains(missing, "all") {
		s.say(levelHelp, s.program+" stopall and restartall are for all of them")
	}
	return chosen, missing, nil
}

// among gives the apps that the targets mean, each once, in the order of list, and
// the targets that mean none.
func among(all []*app, targets []string) (chosen []*app, missing []string) {
	wanted := map[*app]bool{}
	for _, t := range targets {
		found := find(all, t)
		if len(found) == 0 {
			missing = append(missing, t)
		}
		for _, a := range found {
			wanted[a] = true
		}
	}
	for _, a := range all {
		if wanted[a] {
			chosen = append(chosen, a)
		}
	}
	return chosen, missing
}

// columnNames are those that list knows.
func columnNames() []string {
	return []string{"uid", "id", "command", "script", "forever", "pid", "logfile", "dir", "uptime", "cpu", "memory", "restarts", "ready", "instances"}
}

// columnOf gives the cell of a column.
func (a *app) columnOf(name string) cell {
	switch name {
	case "uid":
		return cell{a.UID, "37"}
	case "id":
		return cell{a.ID, "37"}
	case "command":
		return cell{strings.Join(a.Command, " "), "90"}
	case "script":
		return cell{a.script(), "90"}
	case "forever":
		return cell{strconv.Itoa(a.PID), "37"}
	case "pid":
		return cell{number(int64(a.pid())), "37"}
	case "logfile":
		// forever shows where the log of a foreground run would be.
		return cell{cmp.Or(a.LogFile, filepath.Join(a.Root(), a.UID+".log")), "35"}
	case "dir":
		return cell{a.SourceDir, "90"}
	case "uptime":
		return a.uptime()
	case "cpu":
		if u := a.use(); u != nil {
			return cell{fmt.Sprintf("%.1f%%", u.cpu), "37"}
		}
		return cell{"-", "37"}
	case "memory":
		if u := a.use(); u != nil {
			return cell{fmt.Sprintf("%.1fMB", float64(u.memory)/(1<<20)), "37"}
		}
		return cell{"-", "37"}
	case "restarts":
		if a.state != nil {
			return cell{strconv.Itoa(a.state.Restarts), "37"}
		}
		return cell{"-", "37"}
	case "ready":
		switch {
		case a.state == nil:
			return cell{"-", "37"}
		case a.state.Ready:
			return cell{"yes", "32"}
		}
		return cell{"no", "31"}
	case "instances":
		return a.instances()
	}
	return cell{"MISSING", "37"}
}

// instances is how many of the app's processes are ready, and how many there are.
func (a *app) instances() cell {
	if a.state == nil {
		return cell{"-", "37"}
	}
	ready, all := 0, len(a.state.Workers)
	for _, w := range a.state.Workers {
		if w.Ready {
			ready++
		}
	}
	color := "32"
	if ready < all {
		color = "31"
	}
	return cell{fmt.Sprintf("%d/%d", ready, all), color}
}

func number(n int64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

// uptime is forever's D:H:M:S since the last start, or why there is none.
func (a *app) uptime() cell {
	if status := a.status(); status != "" {
		return cell{status, "31"}
	}
	if a.state.LastStartedAt.IsZero() {
		return cell{"STOPPED", "31"}
	}
	return cell{duration(a.at.Sub(a.state.LastStartedAt)), "33"}
}

// duration is a time as forever's list has it.
func duration(d time.Duration) string {
	ms := max(d.Milliseconds(), 0)
	s := ms / 1000
	return fmt.Sprintf("%d:%d:%d:%s", s/86400, s/3600%24, s/60%60,
		strconv.FormatFloat(float64(ms%60000)/1000, 'f', -1, 64))
}

// gridOf is the table of apps.
func gridOf(list []*app, columns []string) *grid {
	g := &grid{}
	head := []cell{{"   ", ""}}
	for _, name := range columns {
		head = append(head, cell{name, "35"})
	}
	g.rows = append(g.rows, head)
	for i, a := range list {
		row := []cell{{"[" + strconv.Itoa(i) + "]", ""}}
		for _, name := range columns {
			row = append(row, a.columnOf(name))
		}
		g.rows = append(g.rows, row)
	}
	return g
}

// use is what the app's processes take, or took when they were looked at; nil:
// nobody knows.
func (a *app) use() *use {
	if a.used == nil {
		for _, pid := range a.livePIDs() {
			if u, ok := useOf(pid); ok {
				if a.used == nil {
					a.used = &use{}
				}
				a.used.cpu += u.cpu
				a.used.memory += u.memory
			}
		}
	}
	return a.used
}

// use is what processes take.
type use struct {
	cpu    float64 // percent of one processor, over its life
	memory int64   // resident, in bytes
}

// clockTick is USER_HZ, the unit of proc_pid_stat(5) on every Linux.
const clockTick = 100

// useOf reads what a process takes from /proc.
func useOf(pid int) (use, bool) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	up, errUp := os.ReadFile("/proc/uptime")
	if err != nil || errUp != nil {
		return use{}, false
	}
	// Fields from the third on: utime is 14, stime 15, starttime 22, rss 24.
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	now, _, _ := strings.Cut(string(up), " ")
	seconds, err := strconv.ParseFloat(now, 64)
	if len(f) < 22 || err != nil {
		return use{}, false
	}
	var v [4]float64
	for i, at := range []int{11, 12, 19, 21} {
		if v[i], err = strconv.ParseFloat(f[at], 64); err != nil {
			return use{}, false
		}
	}
	u := use{memory: int64(v[3]) * int64(os.Getpagesize())}
	if life := seconds - v[2]/clockTick; life > 0 {
		u.cpu = 100 * (v[0] + v[1]) / clockTick / life
	}
	return u, true
}

// listAction shows the apps.
func (s *settings) listAction(args []string) (int, error) {
	if len(args) > 0 {
		return 0, usage("list takes no argument: %q", args[0])
	}
	list, err := s.apps()
	if err != nil {
		return 1, err
	}
	if s.answer.json {
		return 0, s.printJSON(jsonOf(list))
	}
	c, err := s.readConfig()
	if err != nil {
		return 1, err
	}
	if len(list) == 0 {
		s.tell(levelInfo, "No "+s.program+" processes running")
		return 0, nil
	}
	s.tell(levelInfo, capital(s.program)+" processes running")
	s.tell(levelData, strings.Join(gridOf(list, c.columns()).write(s.coloured(1)), "\n"))
	return 0, nil
}

// listed is an app in the answer of list --json.
type listed struct {
	Index  int    `json:"index"`
	Status string `json:"status"` // running, stopped, unsupervised, unresponsive
	control.App
	Supervisor  int               `json:"supervisor"`
	State       string            `json:"state,omitempty"`
	PID         int               `json:"pid,omitempty"`
	StartedAt   *time.Time        `json:"started_at,omitempty"`
	UptimeMS    int64             `json:"uptime_ms"`
	Ready       bool              `json:"ready"`
	NotReady    string            `json:"not_ready,omitempty"`
	Restarts    int               `json:"restarts"`
	Spinning    bool              `json:"spinning"`
	Workers     []control.Worker  `json:"workers,omitempty"`
	LastExit    *control.LastExit `json:"last_exit,omitempty"`
	Ended       *control.Ended    `json:"ended,omitempty"`
	CPUPercent  *float64          `json:"cpu_percent,omitempty"`
	MemoryBytes *int64            `json:"memory_bytes,omitempty"`
	HTTP        string            `json:"http,omitempty"`
}

func jsonOf(list []*app) []listed {
	out := make([]listed, 0, len(list))
	for i, a := range list {
		l := listed{Index: i, Status: string(a.Status), App: a.App, Supervisor: a.PID, HTTP: a.HTTP, PID: a.livePID(), Ended: a.Ended}
		switch {
		case a.state != nil:
			l.State, l.StartedAt, l.Ready, l.NotReady = a.state.State, a.state.StartedAt, a.state.Ready, a.state.NotReady
			l.Restarts, l.Spinning, l.LastExit = a.state.Restarts, a.state.Spinning, a.state.LastExit
			l.Workers = a.state.Workers
		case a.Status == control.Running:
			l.Status = "unresponsive"
		case a.Status == control.Unsupervised:
			l.StartedAt = &a.Child.StartedAt
		}
		if l.StartedAt != nil {
			l.UptimeMS = time.Since(*l.StartedAt).Milliseconds()
		}
		if u := a.use(); u != nil {
			l.CPUPercent, l.MemoryBytes = &u.cpu, &u.memory
		}
		out = append(out, l)
	}
	return out
}

func (s *settings) printJSON(what any) error {
	text, err := json.MarshalIndent(what, "", "  ")
	if err != nil {
		return err
	}
	return s.print(string(text) + "\n")
}

// isUnresponsive says that a supervisor runs and does not answer.
func isUnresponsive(err error) bool { return errors.Is(err, control.ErrUnresponsive) }
