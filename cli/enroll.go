package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"evermore/control"
	pid1 "evermore/init"
	"evermore/logs"
	"evermore/reaper"
	"evermore/signals"
	"evermore/watch"
)

// answerEnd is how long those who asked for the end may take to read that it came.
const answerEnd = 500 * time.Millisecond

// register is the supervisor's entry in the register and its control socket. All
// of its methods do nothing on nil: there is no entry.
type register struct {
	registration *control.Registration
	server       *control.Server // nil: there is no socket
	kept         bool            // the record stays when the supervisor ends
}

// enroll puts this supervisor on record and lets it be asked. With an error there
// may be an entry all the same: the record, without a socket.
func (r *running) enroll() (*register, error) {
	root, err := control.Root()
	if err != nil {
		return nil, err
	}
	address := ""
	if r.listener != nil {
		address = r.listener.Addr().String()
	}
	record := control.Record{HTTP: address, App: r.appRecord(), Recipe: r.made, Ledger: r.ledgerKey(), Started: time.Now()}
	record.Recipe.Env = nil
	if r.starter != nil && !r.output.Piped() {
		record.Mark = r.mark
	}
	if a := r.adopted; a != nil {
		record.Child = &control.Child{PID: a.PID, StartTime: a.StartTime, StartedAt: a.StartedAt}
	}
	e := &register{}
	if e.registration, err = control.Register(record, root); err != nil {
		return nil, fmt.Errorf("cannot put this supervisor on record: %w", err)
	}
	if e.server, err = control.Serve(e.registration, supervisor{r, address, e.registration}); err != nil {
		return e, err
	}
	r.events.Store(e.server)
	r.replaceRecords()
	return e, nil
}

// replaceRecords deletes the record of the supervisor that the adopted app had.
func (r *running) replaceRecords() {
	if r.adopted == nil {
		return
	}
	entries, err := control.List()
	if err != nil {
		return // then there are two for a while, of one app
	}
	for _, e := range entries {
		if e.Status == control.Unsupervised && e.Child.PID == r.adopted.PID && e.Child.StartTime == r.adopted.StartTime {
			e.Forget()
		}
	}
}

func childOf(pid int, at time.Time) *control.Child {
	if pid == 0 {
		return nil
	}
	start, err := reaper.StartTime(pid)
	if err != nil {
		return nil
	}
	return &control.Child{PID: pid, StartTime: start, StartedAt: at}
}

// began puts the app's new process on record, where it outlives a killed
// supervisor, and tells the starter of it.
func (e *register) began(r *running, pid int, at time.Time) {
	if e == nil {
		return
	}
	defer r.starter.tell(outcome{PID: pid}) // who has heard of the app finds it on record
	if r.output.Piped() {
		return
	}
	child := childOf(pid, at)
	if err := e.registration.Update(func(rec *control.Record) { rec.Child = child }); err != nil {
		r.warn(fmt.Errorf("cannot put the app's pid on record: %w", err))
	}
}

// ended keeps the record of a daemon that was started and that nobody has stopped.
func (e *register) ended(r *running, event pid1.Event) {
	if e == nil || event.Reason == pid1.ReasonRequest || r.app.Snapshot().Starts == 0 {
		return
	}
	e.kept = true
	err := e.registration.Update(func(rec *control.Record) {
		rec.Child, rec.Recipe = nil, r.made
		rec.Ended = &control.Ended{At: event.Time, Code: event.Code, Reason: string(event.Reason), PID: r.app.Snapshot().LastPID}
	})
	if err != nil {
		r.warn(fmt.Errorf("cannot put the app's end on record: %w", err))
	}
}

// leave takes the supervisor off the register, unless it is to be remembered.
func (e *register) leave() {
	if e != nil && !e.kept {
		e.registration.Remove()
	}
}

// answer lets those who asked for the end know that all is over.
func (e *register) answer(code int) {
	if e == nil || e.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerEnd)
	defer cancel()
	e.server.Ended(ctx, code)
}

// publish gives an event to those who read events.
func (r *running) publish(e pid1.Event) {
	if s := r.events.Load(); s != nil {
		s.Publish(func() []byte { return r.lines.JSON(e) })
	}
}

// supervisor is what the control socket asks and commands.
type supervisor struct {
	*running
	address      string
	registration *control.Registration
}

func (s supervisor) State() control.State {
	s.trimmer.Rest()
	s.registration.Renew()
	snap := s.app.Snapshot()
	v, _ := build()
	st := control.State{
		App: s.appRecord(), HTTP: s.address, Version: v, Supervisor: os.Getpid(),
		State: string(snap.State), PID: snap.PID, LastPID: snap.LastPID, LastStartedAt: snap.LastStartedAt,
		Ready: snap.Ready, NotReady: snap.NotReady, Restarts: snap.Restarts, Spinning: snap.Spinning,
		BackoffMS: snap.Backoff.Milliseconds(), Workers: []control.Worker{},
	}
	if o := s.settings.app; o.KillTimeout > 0 {
		st.KillTimeoutMS = (o.DrainWait + o.KillTimeout).Milliseconds()
	}
	if s.holding != nil {
		st.ReadyTimeoutMS = s.readyTimeout.Milliseconds()
	}
	st.StartedAt = when(snap.StartedAt)
	for _, w := range s.app.Snapshots() {
		st.Workers = append(st.Workers, control.Worker{
			Worker: w.Worker, State: string(w.State), PID: w.PID, StartedAt: when(w.StartedAt),
			Ready: w.Ready, NotReady: w.NotReady, Restarts: w.Restarts,
		})
	}
	if snap.RestartsRemaining >= 0 {
		st.RestartsRemaining = &snap.RestartsRemaining
	}
	if !snap.LastExitAt.IsZero() {
		st.LastExit = &control.LastExit{At: snap.LastExitAt, Reason: string(snap.LastReason)}
		if !snap.LastExit.Unknown {
			code := snap.LastExit.Status()
			st.LastExit.Code = &code
		}
		if snap.LastExit.Signal != 0 {
			st.LastExit.Signal = signals.Name(snap.LastExit.Signal)
		}
	}
	return st
}

// when is a moment that may not have come: nil then.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (s supervisor) Recipe() control.Recipe {
	s.trimmer.Rest()
	return s.made
}

func (s supervisor) Deaths() control.Deaths {
	s.trimmer.Rest()
	return s.ledger.Deaths()
}

func (s supervisor) Restart(ctx context.Context) error {
	return s.restart(ctx, pid1.ReasonRequest, "it was asked to")
}

func (s supervisor) Reload(ctx context.Context) error { return s.reload(ctx, "it was asked to") }

func (s supervisor) Scale(ctx context.Context, n int) error {
	switch {
	case !s.isGiven("instances"):
		return errors.New("it is one process: start it with -i N to have several")
	case n > len(s.app.Snapshots()) && s.holding.alone() != nil:
		return s.holding.alone()
	case n > control.MaxInstances:
		return fmt.Errorf("%d processes are too many: %d is the most", n, control.MaxInstances)
	}
	return s.app.Scale(ctx, n)
}

func (s supervisor) Stop(ctx context.Context, by syscall.Signal) error { return s.app.Stop(ctx, by) }

func (s supervisor) Signal(ctx context.Context, by syscall.Signal) error {
	return s.app.Signal(ctx, by, "it was asked to")
}

// longestServed bounds what a line of a log takes of the supervisor's memory.
const longestServed = 1 << 20

// Logs writes the end of a log file. What goes to a terminal or a container's log
// is not here to be read.
func (s supervisor) Logs(ctx context.Context, w io.Writer, stream string, n int, follow bool) error {
	path := map[string]string{"log": s.logFile, "out": s.outFile, "err": s.errFile}[stream]
	if path == "" {
		return fmt.Errorf("there is no file for %s: the output goes where evermore's own goes", stream)
	}
	return logs.Tail(ctx, []string{path}, logs.TailOptions{N: n, Follow: follow, Longest: longestServed}, func(_ int, line []byte) error {
		_, err := w.Write(append(line, '\n'))
		return err
	})
}

// startWatch begins to watch for changed files.
func (r *running) startWatch() {
	w, err := watch.New(watch.Options{
		Dirs: r.watchDirs, Ignore: r.watchIgnore, All: r.watchAll, Poll: r.watchPoll,
		Files: slices.DeleteFunc([]string{r.logFile, r.outFile, r.errFile, r.pidFile}, func(f string) bool { return f == "" }),
	}, r.changed, r.warn)
	if err != nil {
		r.warn(err) // checked before the start: a folder that vanished meanwhile
		return
	}
	r.watcher = w
}

// changed: files have changed.
func (r *running) changed(c watch.Change) {
	text := c.Path + " changed"
	if c.Count > 1 {
		text += fmt.Sprintf(", and %d more", c.Count-1)
	}
	if r.watchSignal != 0 {
		_ = r.app.Signal(context.Background(), r.watchSignal, text) // an app that is down reads its files when it starts
		return
	}
	if r.storm.isOne(c.Path, time.Now()) {
		r.warn(fmt.Errorf("%s changes again and again: if the app itself writes it, name it in .foreverignore or by --watch-ignore", c.Path))
	}
	if r.watchReload {
		_ = r.reload(context.Background(), text)
		return
	}
	_ = r.restart(context.Background(), pid1.ReasonWatch, text) // its failure has its own event
}

// storm finds a file whose changes restart the app without end.
type storm struct {
	path  string
	since time.Time
	n     int
}

// stormTime is the time in which stormSize restarts because of one file are told.
const (
	stormTime = time.Minute
	stormSize = 5
)

// isOne takes note of a change and tells whether it is time to warn.
func (s *storm) isOne(path string, now time.Time) bool {
	if path != s.path || now.Sub(s.since) > stormTime {
		*s = storm{path: path, since: now}
	}
	s.n++
	return s.n == stormSize
}

// placeWatch finds out which folders are to be watched: where the script is, or
// the app runs, unless others are named.
func (s *settings) placeWatch(dir, path string) error {
	if !s.watch {
		return nil
	}
	if len(s.watchDirs) == 0 {
		if s.form == script {
			if info, err := os.Stat(path); err == nil && !info.IsDir() {
				path = filepath.Dir(path)
			}
			dir = path
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return fmt.Errorf("cannot watch the working directory: %w", err)
		}
		if abs == "/" {
			return usage("%s: the folder to watch would be /: name one by --watch-directory", s.given["watch"])
		}
		s.watchDirs = []string{abs}
	}
	for i, d := range s.watchDirs {
		abs, err := filepath.Abs(d)
		if err == nil {
			var info os.FileInfo
			if info, err = os.Stat(abs); err == nil && !info.IsDir() {
				err = syscall.ENOTDIR
			}
		}
		if err != nil {
			return s.about("watch-directory", fmt.Errorf("cannot watch %s: %w", strings.TrimSpace(d), reason(err)))
		}
		s.watchDirs[i] = abs
	}
	return nil
}
