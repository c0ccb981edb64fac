package node

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"evermore/node/nodetest"
	"evermore/reaper"
)

// supervisor does with this package what evermore does.
type supervisor struct {
	t       *testing.T
	node    string
	dir     string
	sockets *Sockets
	link    *Link

	mu     sync.Mutex
	mains  []int
	events []Event
}

// eachLine runs a test with each line of node.
func eachLine(t *testing.T, run func(t *testing.T, node string)) {
	for _, line := range nodetest.Lines {
		t.Run("node "+line, func(t *testing.T) {
			node := nodetest.Node(t, line)
			t.Parallel()
			run(t, node)
		})
	}
}

func newSupervisor(t *testing.T, node string, o Options, hold ...Address) *supervisor {
	t.Helper()
	s := &supervisor{t: t, node: node, dir: t.TempDir(), sockets: NewSockets(nil)}
	for _, a := range hold {
		if err := s.sockets.Add(a); err != nil {
			t.Fatal(err)
		}
	}
	o.Owner, o.Sockets = s.owner, s.sockets
	if o.Dirs == nil {
		o.Dirs = []string{"/no/such/folder", os.TempDir()}
	}
	if o.PreloadDirs == nil {
		o.PreloadDirs = []string{"/no/such/folder", s.dir}
	}
	var err error
	if s.link, err = Listen(o); err != nil {
		t.Fatal(err)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case e := <-s.link.Events():
				s.mu.Lock()
				s.events = append(s.events, e)
				s.mu.Unlock()
			case <-done:
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(done)
		<-ended
		s.link.Close()
		s.sockets.Close()
		if t.Failed() {
			for _, e := range s.seen() {
				t.Logf("%T %+v", e, e)
			}
		}
	})
	return s
}

func (s *supervisor) owner(pid int) (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, main := range s.mains {
		if pid == main || reaper.Below(pid, main) {
			return main, true
		}
	}
	return 0, false
}

// process is one that the supervisor started.
type process struct {
	*exec.Cmd
	t     *testing.T
	out   *bufio.Reader
	stdin io.Closer
	done  chan struct{} // it was waited for
}

// write makes a file in the supervisor's folder.
func (s *supervisor) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// start runs a command; "node" is the line's. It ends with the test.
func (s *supervisor) start(env []string, argv ...string) *process {
	s.t.Helper()
	argv = slices.Clone(argv)
	if argv[0] == "node" {
		argv[0] = s.node
	}
	c := exec.Command(argv[0], argv[1:]...)
	c.Dir, c.Stderr = s.dir, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	base := []string{
		"PATH=" + filepath.Dir(s.node) + ":" + os.Getenv("PATH"), "HOME=" + s.dir,
		"NODE_PATH=" + nodetest.Modules(s.t), "NODE_NO_WARNINGS=1",
	}
	stdin, _ := c.StdinPipe()
	stdout, _ := c.StdoutPipe()
	p := &process{Cmd: c, t: s.t, out: bufio.NewReader(stdout), stdin: stdin, done: make(chan struct{})}
	err := s.sockets.Inherit(func(files []uintptr, held Held) error {
		c.Env = s.link.Environ(argv, append(base, env...), held)
		for _, fd := range files {
			n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return err
			}
			f := os.NewFile(uintptr(n), "socket")
			defer f.Close()
			c.ExtraFiles = append(c.ExtraFiles, f)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		err := c.Start()
		if err == nil {
			s.mains = append(s.mains, c.Process.Pid)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		p.end()
	})
	return p
}

// end waits for the process, and gives its exit code or -1 for a signal.
func (p *process) end() int {
	p.t.Helper()
	select {
	case <-p.done:
	default:
		kill := time.AfterFunc(time.Minute, func() { p.Process.Kill() })
		_ = p.Wait()
		if !kill.Stop() {
			p.t.Error("the process did not end")
		}
		close(p.done)
	}
	return p.ProcessState.ExitCode()
}

// says gives the next line of the process's output.
func (p *process) says() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("the process says %q, then: %v", line, err)
	}
	return strings.TrimSpace(line)
}

func (s *supervisor) seen() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Event(nil), s.events...)
}

// expect waits for the n-th event of a type that meets a condition.
func expect[E Event](s *supervisor, n int, meets func(E) bool) (found E) {
	s.t.Helper()
	until(s.t, fmt.Sprintf("event %d of type %v", n, reflect.TypeFor[E]()), func() bool {
		count := 0
		for _, e := range s.seen() {
			if e, ok := e.(E); ok && (meets == nil || meets(e)) {
				if count++; count == n {
					found = e
					return true
				}
			}
		}
		return false
	})
	return found
}

func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// given are the ports that freePort gave. It looks for them below 32768, where the
// kernel takes none for outgoing connections, see ip_local_port_range in ip(7), and
// at random, since other tests look as well.
var given sync.Map

// freePort is one that nothing listens on.
func freePort(t testing.TB) uint16 {
	t.Helper()
	// A process that is being forked would have the socket until it is executed.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	for range 1000 {
		port := 10000 + rand.N(uint16(22000))
		if _, before := given.LoadOrStore(port, true); before {
			continue
		}
		if l, err := net.Listen("tcp", ":"+strconv.Itoa(int(port))); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func onPort(port uint16) string { return "PORT=" + strconv.Itoa(int(port)) }

func local(port uint16) string { return "127.0.0.1:" + strconv.Itoa(int(port)) }

// get asks once over a connection of its own.
func get(url string) (string, error) {
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

func (s *supervisor) get(url, want string) {
	s.t.Helper()
	if got, err := get(url); err != nil || got != want {
		s.t.Errorf("GET %s: %q, %v; want %q", url, got, err, want)
	}
}

func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
