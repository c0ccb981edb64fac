package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/joho/godotenv"
	"golang.org/x/sys/unix"

	"evermore/cgroup"
	"evermore/control"
	pid1 "evermore/init"
	"evermore/nearest"
	"evermore/node"
	"evermore/reaper"
)

// options looks at the world for what the settings name - files, folders, users,
// the terminal - and gives the options of the app. Its Command lacks Files. Each
// error is a line for the user, before anything has been started.
func (s *settings) options() (pid1.Options, error) {
	if err := s.agree(); err != nil {
		return pid1.Options{}, err
	}
	o := s.app
	path := ""
	if s.form == script {
		// forever's own check comes first.
		var err error
		if path, err = s.script(); err != nil {
			return o, err
		}
	}
	dir, err := s.dir()
	if err != nil {
		return o, err
	}
	who, err := s.identity()
	if err != nil {
		return o, err
	}
	base := s.childEnv(os.Environ(), who)
	c := reaper.Command{Env: base, Dir: dir}
	if err := s.refresh(&c, base, path); err != nil {
		if s.adopted == nil || c.Argv == nil {
			return o, err
		} // else the refresh before the next start tells of it
	}
	switch {
	case s.form == container:
	case s.npm != "":
		s.ran = []string{"npm", "run", s.npm}
	default:
		s.ran = c.Argv[:len(c.Argv)-len(s.argv)]
	}
	if err := s.placeFiles(); err != nil {
		return o, err
	}
	if err := s.placeWatch(dir, path); err != nil && s.adopted == nil {
		return o, err
	}
	if s.logFormat == "" {
		s.logFormat = "console"
		if s.form == container && !isTerminal(2) {
			s.logFormat = "json"
		}
	}
	if !s.isGiven("stop-signal") && hasTerminal() {
		o.StopSignals = o.StopSignals.With(unix.SIGHUP)
	}
	o.Terminal = isJob(0)
	c.User, c.NoNewPrivs = who.credential, s.noNewPrivs
	c.OwnGroup, c.EndGroup, c.DieWithParent = !o.Terminal, o.KillTree, true
	o.Command = c
	o.UID = s.uid
	if len(s.envFiles) > 0 || s.memoryAware || s.npm != "" {
		o.Refresh = func(c *reaper.Command) error { return s.refresh(c, base, path) }
	}
	return o, o.Validate()
}

// leastHang is how long an event loop may be busy at the least, with a large
// collection of garbage, say.
const leastHang = 500 * time.Millisecond

// agree settles what options mean together.
func (s *settings) agree() error {
	if !s.isGiven("ready") {
		switch {
		case s.pm2Messages:
			s.app.Ready.By = pid1.ReadyMessage
		case s.holds():
			s.app.Ready.By = pid1.ReadyListening
		}
	}
	switch {
	case s.app.Ready.By == pid1.ReadyMessage && !s.pm2Messages:
		return s.about("ready", errors.New("message needs --pm2-messages: else the app has no process.send()"))
	case s.app.HangStack && s.app.HangTimeout == 0:
		return s.about("hang-stack", errors.New("it needs --hang-timeout: else nothing is taken to hang"))
	case s.app.HangTimeout > 0 && s.app.HangTimeout < leastHang:
		return s.about("hang-timeout", fmt.Errorf("event loops that do not hang can be busy for %s: use %s or more", s.app.HangTimeout, leastHang))
	case s.readyTimeout == 0:
		return s.about("ready-timeout", errors.New("no process is ready in 0 s"))
	case s.npm != "" && s.isGiven("command"):
		return s.about("npm", errors.New("the script says what runs it: leave out -c"))
	}
	return nil
}

// refresh brings the command up to date: what it is, and its environment. Where it
// fails the environment stays as it was.
func (s *settings) refresh(c *reaper.Command, base []string, path string) error {
	env, errEnv := s.appEnv(base)
	if errEnv != nil {
		env = c.Env
	}
	if s.npm == "" {
		argv, err := s.commandLine(env, path)
		if err == nil {
			c.Argv, c.Env = argv, env
		}
		return cmp.Or(errEnv, err)
	}
	dir, args := c.Dir, s.argv
	if s.form == script {
		dir, args = path, s.argv[1:]
	}
	p, err := node.ReadScript(dir, s.npm, args, env)
	if err == nil {
		c.Argv, c.Env = p.Argv, p.Env
		if s.workingDir == "" {
			c.Dir = p.Dir
		}
	}
	return cmp.Or(errEnv, err)
}

// dir is the working directory: --working-dir, else --source-dir, else the
// caller's, never the root as forever's for an absolute SCRIPT.
func (s *settings) dir() (string, error) {
	name, dir := "working-dir", s.workingDir
	if dir == "" {
		name, dir = "source-dir", s.sourceDir
	}
	if dir == "" {
		return "", nil
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err == nil {
		err = unix.Faccessat(unix.AT_FDCWD, dir, unix.X_OK, unix.AT_EACCESS)
	}
	if err != nil && s.adopted == nil {
		return "", s.about(name, fmt.Errorf("cannot enter %s: %w", dir, reason(err)))
	}
	// The way there is the same as long as evermore itself stays where it is.
	return dir, nil
}

// commandLine is what is executed; path is where the script is.
func (s *settings) commandLine(env []string, path string) ([]string, error) {
	if s.form == container {
		return s.argv, nil
	}
	command := s.command
	if len(command) == 1 && command[0] == noCommand {
		return append([]string{path}, s.argv[1:]...), nil
	}
	if len(command) == 0 {
		node, err := findNode(env)
		if err != nil {
			return nil, err
		}
		command = []string{node}
	}
	return slices.Concat(command, []string{path}, s.argv[1:]), nil
}

// noCommand is the -c of a script that is executed itself.
const noCommand = "none"

// script finds the SCRIPT. An absolute one stays as it is, a relative one is in
// --source-dir, else in the caller's working directory; the path is absolute,
// since the command may run elsewhere.
func (s *settings) script() (string, error) {
	path := s.argv[0]
	if !filepath.IsAbs(path) {
		// Without a working directory (it was deleted) the path stays relative.
		if abs, err := filepath.Abs(filepath.Join(s.sourceDir, path)); err == nil {
			if strings.HasSuffix(path, "/") {
				abs += "/" // "npm start" and the like get a folder as it was written
			}
			path = abs
		}
	}
	switch _, err := os.Stat(path); {
	case err == nil, s.adopted != nil: // what runs already is missed when it is to be started again
		return path, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return "", s.cannotStart(s.hint(), "script %s does not exist.", path)
	default:
		return "", s.cannotStart("", "cannot find script %s: %w", path, reason(err))
	}
}

// hint is a word to who has forgotten the dashes, or has written a command of
// evermore behind an option.
func (s *settings) hint() string {
	word := s.argv[0]
	if slices.Contains(commands, word) {
		return fmt.Sprintf("%s comes first when it is a command: %s %s", word, s.program, word)
	}
	if to := pm2Actions[word]; to != "" {
		return fmt.Sprintf("what pm2 calls %s is: %s %s", word, s.program, to)
	}
	if near := nearest.Nearest(word, actionNames()); near != "" {
		return fmt.Sprintf("did you mean: %s %s", s.program, strings.Join(append([]string{near}, s.argv[1:]...), " "))
	}
	if _, err := lookPath(word, os.Getenv("PATH")); err == nil {
		return fmt.Sprintf("to run a command: %s -- %s", s.program, strings.Join(s.argv, " "))
	}
	return ""
}

// pm2Actions are words of pm2's that are others here.
var pm2Actions = map[string]string{
	"ls": "list", "status": "list", "ps": "list", "jlist": "list --json", "delete": "stop", "del": "stop", "monit": "list",
	"log": "logs", "flush": "cleanlogs", "sendSignal": "signal", "unstartup": "startup", "env": "config --effective",
	"gracefulReload": "reload", "startOrRestart": "start --replace", "startOrReload": "start --replace",
}

// cannotStart is forever's answer, two lines with exit code 255.
func (s *settings) cannotStart(hint, format string, args ...any) error {
	//lint:ignore ST1005 these are forever's words
	return &failure{codeCannotStart, fmt.Errorf("Cannot start %s\n%w", s.program, fmt.Errorf(format, args...)), hint}
}

func findNode(env []string) (string, error) {
	path := ""
	for _, v := range env {
		if after, ok := strings.CutPrefix(v, "PATH="); ok {
			path = after
		}
	}
	if node, err := lookPath("node", path); err == nil {
		return node, nil
	}
	if executable(reaper.DistrolessNode) {
		return reaper.DistrolessNode, nil
	}
	return "", &failure{codeNotFound, fmt.Errorf("cannot find node in the PATH (%s)", path), "-c COMMAND runs the script with another"}
}

// lookPath finds an executable file in the folders of a PATH, as an absolute
// path.
func lookPath(name, path string) (string, error) {
	if !strings.Contains(name, "/") {
		for _, dir := range filepath.SplitList(path) {
			// An empty folder is the working directory, as a shell has it.
			if file, err := filepath.Abs(filepath.Join(dir, name)); err == nil && executable(file) {
				return file, nil
			}
		}
	}
	return "", fs.ErrNotExist
}

func executable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// placeFiles makes the paths of the files absolute. What forever keeps in its
// own folder, evermore keeps in its: a relative -l and --pid-file. Behind the
// dashes there is no such folder, and they are relative to where evermore is.
func (s *settings) placeFiles() error {
	for _, f := range []struct {
		name string
		path *string
		in   string // the part of evermore's folder
	}{{"log-file", &s.logFile, "."}, {"pid-file", &s.pidFile, "pids"}} {
		if *f.path == "" || filepath.IsAbs(*f.path) || s.form == container {
			continue
		}
		root, err := s.filesFolder()
		if err != nil {
			return err
		}
		folder := filepath.Join(root, f.in)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return s.about(f.name, err)
		}
		*f.path = filepath.Join(folder, *f.path)
	}
	for _, path := range []*string{&s.logFile, &s.outFile, &s.errFile, &s.pidFile} {
		if *path != "" {
			abs, err := filepath.Abs(*path)
			if err != nil {
				return fmt.Errorf("cannot place %s: %w", *path, err)
			}
			*path = abs
		}
	}
	if s.form == script {
		for _, path := range []string{s.logFile, s.outFile, s.errFile} {
			if path != "" {
				_ = os.MkdirAll(filepath.Dir(path), 0o755) // opening the file says what is wrong
			}
		}
	}
	// forever refuses to add to the log of a uid, too.
	if s.logFile != "" && !s.appendLogs && s.starter == nil && (!s.ownLog || s.program == "forever") {
		// /dev/stdout and the like are always there.
		if info, err := os.Stat(s.logFile); err == nil && info.Mode().IsRegular() {
			return s.cannotStart("", "log file %s exists. Use the -a or --append option to append log.", s.logFile)
		}
	}
	return nil
}

// childEnv is evermore's environment without what is meant for evermore itself:
// the variables of its options, and the sockets and duties that a service
// manager gave to it, see sd_notify(3), sd_watchdog_enabled(3) and
// sd_listen_fds(3).
func (s *settings) childEnv(environ []string, who identity) []string {
	env := s.ownEnv(environ)
	if who.name != "" {
		env = with(env, "HOME="+who.home, "USER="+who.name, "LOGNAME="+who.name)
	}
	return env
}

// ownEnv is the environment of the app as far as it does not go by its user.
func (s *settings) ownEnv(environ []string) []string {
	own := map[string]bool{
		"NOTIFY_SOCKET": true, "WATCHDOG_USEC": true, "WATCHDOG_PID": true,
		"LISTEN_PID": true, "LISTEN_FDS": true, "LISTEN_FDNAMES": true,
		starterVariable: true, adoptVariable: true, control.RootVariable: true,
	}
	for i := range table {
		if name := table[i].env(); name != "" {
			own[name] = true
		}
	}
	env := slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		// What a hook of --on-exit was told is not for what it starts.
		return own[name] || strings.HasPrefix(name, "EVERMORE_EXIT_")
	})
	return with(env, s.env...)
}

// with gives an environment in which the variables have these values.
func with(env []string, variables ...string) []string {
	for _, v := range variables {
		name, _, _ := strings.Cut(v, "=")
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	}
	return append(env, variables...)
}

// appEnv completes the environment of a run by what may differ from that of the
// last one.
func (s *settings) appEnv(base []string) ([]string, error) {
	env, err := s.withEnvFiles(base)
	if err != nil {
		return env, err
	}
	if s.app.HangStack {
		env = node.WithOptions(env, node.StackOptions...)
	}
	if !s.memoryAware {
		return env, nil
	}
	if limit, ok := cgroup.Own("/").MemoryLimit(); ok { // it may be another one by now
		if mib, ok := node.HeapLimit(limit); ok {
			env = node.WithOptions(env, fmt.Sprintf("--max-old-space-size=%d", mib))
		}
	}
	return env, nil
}

// noHeap warns that --memory-aware does nothing.
func (s *settings) noHeap() []string {
	if !s.memoryAware {
		return nil
	}
	limit, ok := cgroup.Own("/").MemoryLimit()
	if !ok {
		return []string{"--memory-aware does nothing: no limit of memory is known here"}
	}
	if _, ok := node.HeapLimit(limit); !ok {
		return []string{fmt.Sprintf("--memory-aware does nothing: a limit of %d MiB leaves no room for a heap", limit>>20)}
	}
	return nil
}

// unwatched warns that --watch-action does nothing.
func (s *settings) unwatched() []string {
	if s.isGiven("watch-action") && !s.watch {
		return []string{"--watch-action does nothing without --watch: no change is noticed"}
	}
	return nil
}

// withEnvFiles adds the variables of --env-file that the environment lacks, as
// Node's own --env-file does (https://nodejs.org/api/cli.html#--env-fileconfig).
func (s *settings) withEnvFiles(env []string) ([]string, error) {
	if len(s.envFiles) == 0 {
		return env, nil
	}
	values := map[string]string{}
	for _, file := range s.envFiles {
		text, err := readRegular(file) // it is read again and again
		var more map[string]string
		if err == nil {
			more, err = godotenv.UnmarshalBytes(text)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the variables of %s: %w", file, reason(err))
		}
		maps.Copy(values, more)
	}
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		delete(values, name)
	}
	env = slices.Clip(env)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		env = append(env, name+"="+values[name])
	}
	return env, nil
}

// hasTerminal tells whether evermore has a controlling terminal: one that may
// hang up.
func hasTerminal() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// isJob tells whether a descriptor is the controlling terminal, see
// tcgetpgrp(3). In the foreground or not: a shell moves a job from one to the
// other, the app with it, and stops both when either reads in the background.
func isJob(fd int) bool {
	_, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil
}

// isForeground tells whether a descriptor is a terminal whose foreground process
// group is evermore's own.
func isForeground(fd int) bool {
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// reason is the cause at the bottom of an error, whose path was already told.
func reason(err error) error {
	if e := new(fs.PathError); errors.As(err, &e) {
		return e.Err
	}
	if e := new(os.LinkError); errors.As(err, &e) {
		return e.Err
	}
	return err
}
