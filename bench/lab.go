package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed programs
var sources embed.FS

// A lab holds what the measurements share and what they found.
type lab struct {
	dir      string // of this run; removed at its end
	programs string // the folder of the compiled programs
	http     string // an address for a supervisor that serves HTTP
	port     string // that apps listen on
	npm      string // the folder of what npm has installed
	peers    []peer
	apps     []peer        // what keeps a server up
	underway time.Duration // how long each of them is under load

	samples  map[string]map[string]series // by metric and peer
	failures []string
	notes    []string // what else the table needs to be read
}

func newLab(evermore, npm string) (*lab, error) {
	dir, err := os.MkdirTemp("", "evermore-bench-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a working folder: %w", err)
	}
	l := &lab{
		dir:      dir,
		npm:      npm,
		programs: filepath.Join(dir, "programs"),
		samples:  make(map[string]map[string]series),
	}
	if err := l.prepare(); err != nil {
		l.close()
		return nil, err
	}
	l.peers = findPeers(l.programs, evermore, npm)
	l.apps = findApps(l.peers)
	return l, nil
}

func (l *lab) close() { os.RemoveAll(l.dir) }

func (l *lab) prepare() error {
	if err := os.CopyFS(l.dir, sources); err != nil {
		return fmt.Errorf("cannot unpack the measured programs: %w", err)
	}
	for _, name := range []string{"launch", "child", "raw", "sender", "orphans", "writer", "host", "lines"} {
		if err := l.compile(name); err != nil {
			return err
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("cannot find a free port: %w", err)
	}
	defer free.Close()
	l.http = free.Addr().String()
	return l.findPort()
}

// findPort finds one for apps. It is below those that the kernel takes for clients
// (ip_local_port_range): one of theirs would take it while the app is dead.
func (l *lab) findPort() error {
	const first, count = 20000, 12000
	var failure error
	for i := range count {
		l.port = strconv.Itoa(first + (os.Getpid()+i)%count)
		free, err := net.Listen("tcp", ":"+l.port)
		if err == nil {
			return free.Close()
		}
		failure = err
	}
	return fmt.Errorf("cannot find a free port: %w", failure)
}

func (l *lab) compile(name string) error {
	path := l.program(name)
	args := []string{"-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", path, path + ".c"}
	if name == "child" {
		args = append(args, "-Wl,-e,first")
	}
	told, err := exec.Command("cc", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot compile %s.c (needs cc and a static libc: apt-get install gcc libc6-dev): %w\n%s", name, err, told)
	}
	return nil
}

// program is the path of a compiled program.
func (l *lab) program(name string) string { return filepath.Join(l.programs, name) }

// A session is one supervisor with its child, alone in a pid namespace.
type session struct {
	lab    *lab
	peer   peer
	job    job
	report *report
	launch *exec.Cmd
}

// how makes a peer's command line for a job.
type how func(peer, job) ([]string, error)

// start has the peer run the program name with the report and args as its
// arguments. Whoever starts a session ends it.
func (l *lab) start(p peer, as how, name string, args ...string) (*session, error) {
	s, err := l.newSession(p, name, args...)
	if err != nil {
		return nil, err
	}
	if s.report, err = openReport(s.reportPath()); err == nil {
		err = s.run(as)
	}
	if err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// newSession prepares a session whose report somebody else may read.
func (l *lab) newSession(p peer, name string, args ...string) (*session, error) {
	dir, err := os.MkdirTemp(l.dir, p.name+"-")
	if err != nil {
		return nil, err
	}
	s := &session{lab: l, peer: p}
	s.job = job{dir: dir, http: l.http, port: l.port}
	s.job.command = append([]string{l.program(name), s.reportPath()}, args...)
	if err := syscall.Mkfifo(s.reportPath(), 0o600); err != nil {
		s.end()
		return nil, fmt.Errorf("cannot make the report: %w", err)
	}
	return s, nil
}

func (s *session) reportPath() string { return filepath.Join(s.job.dir, "report") }
func (s *session) stderrPath() string { return filepath.Join(s.job.dir, "stderr") }

// run starts the supervisor as PID 1.
func (s *session) run(as how) error {
	argv, err := as(s.peer, s.job)
	if err != nil {
		return err
	}
	if s.job.file == "" || s.peer.name != "raw" {
		return s.launched(argv, nil, nil)
	}
	file, err := os.OpenFile(s.job.file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	return s.launched(argv, nil, file)
}

// launched starts a program as PID 1, with a home of its own; a file that is nil
// is /dev/null.
func (s *session) launched(argv []string, stdin, stdout *os.File) error {
	c := exec.Command(s.lab.program("launch"), argv...)
	c.Env = append(os.Environ(), "NO_COLOR=1", "PORT="+s.lab.port)
	for _, home := range []string{"HOME", "PM2_HOME", "FOREVER_ROOT", "EVERMORE_ROOT"} {
		c.Env = append(c.Env, home+"="+s.job.dir)
	}
	stderr, err := os.Create(s.stderrPath())
	if err != nil {
		return err
	}
	defer stderr.Close()
	c.Stderr = stderr
	if stdin != nil {
		c.Stdin = stdin
	}
	if stdout != nil {
		c.Stdout = stdout
	}
	c.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		// Nothing outlives an interrupted run.
		Pdeathsig: syscall.SIGKILL,
	}
	if os.Getuid() != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := c.Start(); err != nil {
		return fmt.Errorf("cannot make a pid namespace (run as root, or allow unprivileged user namespaces): %w", err)
	}
	s.launch = c
	return nil
}

// end kills the supervisor, and with PID 1 the kernel ends all that is in its
// namespace.
func (s *session) end() {
	if s.launch != nil {
		// Both fail where it ended by itself, which is as good.
		_ = s.launch.Process.Kill()
		_ = s.launch.Wait()
	}
	if s.report != nil {
		s.report.close()
	}
	os.RemoveAll(s.job.dir)
}

// pid is the supervisor's, as this process sees it.
func (s *session) pid() int { return s.launch.Process.Pid }

// next waits for the next record of this kind.
func (s *session) next(kind int64) (record, error) {
	r, err := s.report.next(kind, patience)
	if err != nil {
		return r, s.explain(err)
	}
	return r, nil
}

// patience is how long a supervisor may take for anything: far longer than any
// needs, short enough for a run that hangs.
const patience = 30 * time.Second

// explain adds what the supervisor said last.
func (s *session) explain(err error) error {
	told, _ := os.ReadFile(s.stderrPath())
	if lines := strings.Split(strings.TrimSpace(string(told)), "\n"); lines[len(lines)-1] != "" {
		return fmt.Errorf("%w; last on its stderr: %s", err, lines[len(lines)-1])
	}
	return err
}

// processes gives the pids in the session's pid namespace whose program is not
// one of the lab's: the supervisor, and what it needs beside it.
func (s *session) processes() ([]int, error) {
	return s.find(func(pid string) bool { return !s.isChild(pid) })
}

func (s *session) isChild(pid string) bool {
	exe, _ := os.Readlink("/proc/" + pid + "/exe")
	return exe == s.job.command[0]
}

// child is the pid of the supervised program, as this process sees it.
func (s *session) child(ctx context.Context) (int, error) {
	for {
		found, err := s.find(s.isChild)
		if err != nil || len(found) > 0 {
			return append(found, 0)[0], err
		}
		select {
		case <-ctx.Done():
			return 0, s.explain(errors.New("no child was started"))
		case <-time.After(time.Millisecond):
		}
	}
}

// find gives the pids in the session's pid namespace of what is looked for, as
// this process sees them.
func (s *session) find(is func(pid string) bool) ([]int, error) {
	ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.pid()))
	if err != nil {
		return nil, s.explain(err)
	}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, entry := range all {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// A process that ends meanwhile is in no namespace.
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err != nil || ns != ours {
			continue
		}
		if is(entry.Name()) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// rounds has each of the peers that can (which says so) do its part in turn, n
// times over, after one round that is not kept. A peer whose part fails takes
// no further part in this metric.
func (l *lab) rounds(metric string, n int, can func(peer) bool, part func(p peer, keep bool) error) {
	l.roundsOf(l.peers, metric, n, can, part)
}

func (l *lab) roundsOf(peers []peer, metric string, n int, can func(peer) bool, part func(p peer, keep bool) error) {
	failed := make(map[string]bool)
	for round := range n + 1 {
		for _, p := range peers {
			if p.program == "" || !can(p) || failed[p.name] {
				continue
			}
			if p.slow && round%slowEvery != 0 && n > slowEvery {
				continue
			}
			if err := part(p, round > 0); err != nil {
				failed[p.name] = true
				l.fail(metric, p, err)
			}
		}
	}
}

// fail records why a peer could not be measured.
func (l *lab) fail(metric string, p peer, err error) {
	l.failures = append(l.failures, fmt.Sprintf("%s: %s: %v", p.name, metric, err))
}

// slowEvery says in which rounds the slow peers take part.
const slowEvery = 10

// keep records samples of a metric.
func (l *lab) keep(metric string, p peer, values ...float64) {
	if l.samples[metric] == nil {
		l.samples[metric] = make(map[string]series)
	}
	l.samples[metric][p.name] = append(l.samples[metric][p.name], values...)
}
