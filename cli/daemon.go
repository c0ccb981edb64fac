package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"evermore/control"
	"evermore/logs"
	"evermore/reaper"
)

// A daemon is a run in the foreground in a session of its own: stdin is
// /dev/null, stdout and stderr are its log. Its starter waits on a pipe for what
// became of the app's first start. These variables tell it of both, and of the
// process that it adopts; the app does not see them.
const (
	starterVariable = "EVERMORE_STARTER_FD"
	adoptVariable   = "EVERMORE_ADOPT"
)

// The daemon's state is in its starter's folder, whatever HOME its app is given:
// see control.RootVariable.

// outcome is what a daemon tells its starter.
type outcome struct {
	PID   int    `json:"pid"` // the app's, 0 when it could not be started yet
	Error string `json:"error"`
	Code  int    `json:"code"`
	Hint  string `json:"hint"`
}

// starter is the daemon's end of the pipe; nil: this is no daemon, or it has said
// what there is to say.
type starter struct{ pipe *os.File }

func starterOf(getenv func(string) string) *starter {
	fd, err := strconv.ParseUint(getenv(starterVariable), 10, 16)
	if err != nil || fd < 3 {
		return nil
	}
	unix.CloseOnExec(int(fd))
	return &starter{os.NewFile(uintptr(fd), "starter")}
}

func (s *starter) tell(o outcome) {
	if s == nil || s.pipe == nil {
		return
	}
	_ = json.NewEncoder(s.pipe).Encode(o) // a starter that is gone wants to know nothing
	_ = s.pipe.Close()
	s.pipe = nil
}

// launch starts a daemon by its recipe and waits until its app runs. logFile
// gets its output; adopt, when not nil, is the process that it takes over.
func launch(r control.Recipe, logFile string, adopt *control.Child) (outcome, error) {
	root, err := control.Root()
	if err != nil {
		return outcome{}, err
	}
	log, err := logs.OpenFile(logFile)
	if err != nil {
		return outcome{}, fmt.Errorf("cannot open log file %q: %w", logFile, reason(err))
	}
	defer log.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return outcome{}, fmt.Errorf("cannot start a supervisor: %w", err)
	}
	defer read.Close()
	self, err := os.Executable()
	if err != nil {
		self = "/proc/self/exe" // it was deleted or replaced
	}
	// An app may start others by evermore: they are no part of its tree.
	env := slices.DeleteFunc(slices.Clone(r.Env), func(v string) bool { return strings.HasPrefix(v, reaper.RunID+"=") })
	cmd := &exec.Cmd{
		Path: self, Args: append([]string{r.Program}, r.Args...), Dir: r.Dir,
		Env:    append(env, starterVariable+"=3", control.RootVariable+"="+root),
		Stdout: log, Stderr: log, ExtraFiles: []*os.File{write},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if adopt != nil {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d:%d:%d", adoptVariable, adopt.PID, adopt.StartTime, adopt.StartedAt.UnixMilli()))
	}
	inheritNothing()
	err = cmd.Start()
	write.Close()
	if err != nil {
		return outcome{}, fmt.Errorf("cannot start a supervisor: %w", err)
	}
	var o outcome
	switch err := json.NewDecoder(read).Decode(&o); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		state, _ := cmd.Process.Wait()
		return outcome{}, fmt.Errorf("the supervisor ended before the app was started (%v): see %s", state, logFile)
	case err != nil:
		return outcome{}, fmt.Errorf("cannot understand the supervisor: %w", err)
	case o.Error != "":
		_, _ = cmd.Process.Wait()
		return outcome{}, &failure{o.Code, errors.New(o.Error), o.Hint}
	}
	_ = cmd.Process.Release()
	return o, nil
}

// inheritNothing keeps from a daemon what the starter's shell has open: a lock that
// flock(1) took would be held for as long as the daemon lives.
func inheritNothing() {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// adoption reads which process the daemon takes over; nil: none.
func adoption(getenv func(string) string) *reaper.Adoption {
	parts := strings.Split(getenv(adoptVariable), ":")
	if len(parts) != 3 {
		return nil
	}
	pid, errP := strconv.Atoi(parts[0])
	start, errS := strconv.ParseUint(parts[1], 10, 64)
	at, errA := strconv.ParseInt(parts[2], 10, 64)
	if errors.Join(errP, errS, errA) != nil {
		return nil
	}
	a := &reaper.Adoption{PID: pid, StartTime: start, StartedAt: time.UnixMilli(at)}
	if env, err := environOf(pid); err == nil {
		for _, v := range env {
			if name, ok := strings.CutPrefix(v, "NOTIFY_SOCKET="); ok {
				a.Notify = name
			}
		}
	}
	return a
}

// recipe is how this supervisor is started again.
func (s *settings) recipe() control.Recipe {
	r := control.Recipe{Program: s.program, Env: s.ownEnv(os.Environ())}
	r.Dir, _ = os.Getwd()
	for i := range table {
		o := &table[i]
		if o.flagOnly {
			continue
		}
		for _, text := range s.texts[o.name] {
			r.Args = append(r.Args, "--"+o.name+"="+text)
		}
	}
	argv := s.argv
	switch {
	case s.form == container:
		r.Args = append(r.Args, "--")
	case strings.HasPrefix(argv[0], "-"):
		argv = slices.Concat([]string{"./" + argv[0]}, argv[1:])
	}
	r.Args = append(r.Args, argv...)
	return r
}

// uidLetters are those of forever.
const uidLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

// name gives the app a uid unless it has one.
func (s *settings) name() {
	if s.uid != "" {
		return
	}
	b := make([]byte, 4)
	for i := range b {
		b[i] = uidLetters[rand.IntN(len(uidLetters))]
	}
	if b[0] == '-' {
		b[0] = '_' // it would look like an option
	}
	s.uid = string(b)
	s.texts["uid"] = []string{s.uid}
}

// placeDaemon gives a daemon the log and the pid file of its uid, unless it has
// others.
func (s *settings) placeDaemon() {
	if s.logFile == "" {
		s.logFile = s.uid + ".log"
		s.texts["log-file"] = []string{s.logFile}
		s.ownLog = true
	}
	if s.pidFile == "" {
		s.pidFile = s.uid + ".pid"
		s.texts["pid-file"] = []string{s.pidFile}
	}
}

// record is what the register says of this supervisor.
func (s *settings) appRecord() control.App {
	a := control.App{
		UID: s.uid, ID: s.id, Args: []string{}, Command: s.words(), Dir: s.workingDir,
		LogFile: s.logFile, OutFile: s.outFile, ErrFile: s.errFile, PIDFile: s.pidFile, Daemon: s.starter != nil,
	}
	a.SourceDir = absolute(s.sourceDir)
	if s.form == script {
		a.Script, a.Args = s.argv[0], s.argv[1:]
		a.Command = s.ran
	}
	if a.Dir == "" {
		a.Dir = s.sourceDir
	}
	a.Dir = absolute(a.Dir)
	return a
}
