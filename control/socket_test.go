package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// playClient asks at an address and says what it was answered.
func playClient() {
	conn, err := net.Dial("unix", os.Getenv("CONTROL_TEST_ADDRESS"))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = io.WriteString(conn, "GET /v1/recipe HTTP/1.0\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		fmt.Println("refused")
		return
	}
	fmt.Println(res.Status)
}

// playSquatter listens at a path.
func playSquatter() {
	_, err := net.Listen("unix", os.Getenv("CONTROL_TEST_ADDRESS"))
	fmt.Println(err)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// canUnshare tells whether processes can be put into namespaces of their own.
func canUnshare(t *testing.T, attr *syscall.SysProcAttr) {
	t.Helper()
	cmd := exec.Command("true")
	cmd.SysProcAttr = attr
	if err := cmd.Run(); err != nil && os.Getenv("CI") == "" {
		t.Skipf("no such namespaces here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
}

func ownPIDs() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	}
	return attr
}

// The abstract socket can be reached by all who share the network namespace.
func TestWhoMayAsk(t *testing.T) {
	r, _ := serve(t, newFake())
	for name, c := range map[string]struct {
		attr *syscall.SysProcAttr
		want string
	}{
		"this user":                {nil, "200 OK"},
		"this user in a container": {ownPIDs(), "refused"},
		"another user":             {&syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			switch {
			case c.attr == nil:
			case c.attr.Credential != nil && os.Geteuid() != 0:
				t.Skip("only root can be another user")
			case c.attr.Cloneflags != 0:
				canUnshare(t, c.attr)
			}
			cmd := role("client", "CONTROL_TEST_ADDRESS="+r.abstract().Name)
			cmd.SysProcAttr = c.attr
			out, err := cmd.Output()
			if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
	if _, err := r.State(inTime(t)); err != nil {
		t.Error(err)
	}
}

// A supervisor in a container does not know who asks from outside of it.
func TestWhoCannotBeSeen(t *testing.T) {
	canUnshare(t, ownPIDs())
	root := t.TempDir()
	cmd := role("supervisor", "EVERMORE_ROOT="+root, "CONTROL_TEST_SERVE=1")
	cmd.SysProcAttr = ownPIDs()
	said, _ := begin(t, cmd)
	if said != "<nil>" {
		t.Fatal(said)
	}
	records, _ := filepath.Glob(filepath.Join(root, "run", "*.json"))
	if len(records) != 1 {
		t.Fatalf("the records are %q", records)
	}
	r, err := read(records[0])
	if err != nil {
		t.Fatal(err)
	}
	r.root = root
	out, err := role("client", "CONTROL_TEST_ADDRESS="+r.abstract().Name).Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != "refused" {
		t.Errorf("got %q, %v", got, err)
	}
}

// Whatever becomes of the socket's file, the abstract one answers, and nobody
// else is spoken to.
func TestSocketDeleted(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string) error{
		"its file":       func(_ *testing.T, path string) error { return os.Remove(path) },
		"its folder":     func(_ *testing.T, path string) error { return os.RemoveAll(filepath.Dir(path)) },
		"the whole root": func(_ *testing.T, path string) error { return os.RemoveAll(filepath.Dir(filepath.Dir(path))) },
		"for a file": func(_ *testing.T, path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600))
		},
		"for a link": func(_ *testing.T, path string) error {
			return errors.Join(os.Remove(path), os.Symlink("nowhere", path))
		},
		"for a folder":    func(_ *testing.T, path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"for a FIFO":      func(_ *testing.T, path string) error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)) },
		"its permissions": func(_ *testing.T, path string) error { return os.Chmod(path, 0) },
		"for one that is another's": func(t *testing.T, path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			t.Chdir(filepath.Dir(path)) // an address has at most 107 bytes
			if said, _ := begin(t, role("squatter", "CONTROL_TEST_ADDRESS="+filepath.Base(path))); said != "<nil>" {
				return errors.New(said)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			r, srv := serve(t, f)
			if err := spoil(t, filepath.Join(r.root, "sock", r.socket())); err != nil {
				t.Fatal(err)
			}
			if s, err := r.State(inTime(t)); err != nil || s.PID != 7 {
				t.Errorf("got %+v, %v", s, err)
			}
			srv.Ended(inTime(t), 0)
		})
	}
}

// One that is dead, whose pid another process has, is not taken for it.
func TestSocketOfAnother(t *testing.T) {
	r, _ := serve(t, newFake())
	other := *r
	said, _ := begin(t, role("squatter", "CONTROL_TEST_ADDRESS="+"@evermore/test."+strconv.Itoa(os.Getpid())))
	if said != "<nil>" {
		t.Fatal(said)
	}
	other.Boot, other.PID = "test", os.Getpid() // its names are nobody's
	conn, err := other.connect(inTime(t), "@evermore/test."+strconv.Itoa(os.Getpid()))
	if err == nil || !strings.Contains(err.Error(), "its socket belongs to process ") {
		t.Errorf("got %v", err)
	}
	if conn != nil {
		conn.Close()
	}
}

// Who deletes the register, or all of the root, loses no supervisor: it is found by
// its socket, and writes its record again when it is asked to.
func TestLostRegister(t *testing.T) {
	for name, lose := range map[string]string{"the record": "run", "the root": "."} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "root")
			if err := os.Mkdir(root, 0o700); err != nil {
				t.Fatal(err)
			}
			reg, err := Register(Record{App: App{UID: "web"}}, root)
			if err != nil {
				t.Fatal(err)
			}
			defer reg.Remove()
			srv, err := Serve(reg, newFake())
			if err != nil {
				t.Fatal(err)
			}
			defer srv.Ended(inTime(t), 0)
			if err := os.RemoveAll(filepath.Join(root, lose)); err != nil {
				t.Fatal(err)
			}
			entries, err := listIn(root)
			if err != nil || len(entries) != 1 || entries[0].PID != os.Getpid() || entries[0].Status != Running {
				t.Fatalf("listed %+v, %v", entries, err)
			}
			if _, err := entries[0].State(inTime(t)); err != nil {
				t.Error(err)
			}
			if other, err := listIn(t.TempDir()); err != nil || len(other) != 0 {
				t.Errorf("in another root: %+v, %v", other, err)
			}
			reg.Renew()
			if entries, err := listIn(root); err != nil || len(entries) != 1 || entries[0].UID != "web" {
				t.Errorf("renewed: %+v, %v", entries, err)
			}
		})
	}
}

// A root that cannot be written still leaves the abstract socket.
func TestNoRoomForSocket(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	reg, err := Register(Record{}, root)
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Remove()
	srv, err := Serve(reg, newFake())
	if err != nil {
		t.Fatal(err)
	}
	entries, err := listIn(root)
	if err != nil || len(entries) != 1 {
		t.Fatalf("listed %+v, %v", entries, err)
	}
	if _, err := entries[0].State(inTime(t)); err != nil {
		t.Error(err)
	}
	srv.Ended(inTime(t), 0)
}

func TestFrozenSupervisor(t *testing.T) {
	root := t.TempDir()
	cmd, _ := supervisor(t, root, "", "CONTROL_TEST_SERVE=1")
	entries, err := listIn(root)
	if err != nil || len(entries) != 1 {
		t.Fatalf("listed %+v, %v", entries, err)
	}
	r := entries[0].Record
	if _, err := r.State(inTime(t)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// A signal takes its time to stop every thread.
	for state := byte(0); state != 'T'; {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		state = stat[strings.LastIndexByte(string(stat), ')')+2]
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.State(ctx); !errors.Is(err, ErrUnresponsive) {
		t.Errorf("got %v", err)
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := r.State(inTime(t)); err != nil {
		t.Error(err)
	}
}

// One that is frozen for long has no room for those who want to be heard.
func TestFullBacklog(t *testing.T) {
	var r Record
	if err := r.identify(); err != nil {
		t.Fatal(err)
	}
	r.root, r.Boot = t.TempDir(), "backlog"
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: r.abstract().Name}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		conn, err := r.dial(t.Context())
		if err != nil {
			if !errors.Is(err, unix.EAGAIN) {
				t.Fatal(err)
			}
			if _, err := r.State(t.Context()); !errors.Is(err, ErrUnresponsive) {
				t.Errorf("got %v", err)
			}
			return
		}
		defer conn.Close()
	}
	t.Error("a backlog of 0 takes three")
}

// A supervisor that serves nobody sleeps.
func TestServerIsIdle(t *testing.T) {
	cmd, _ := supervisor(t, t.TempDir(), "", "CONTROL_TEST_SERVE=1")
	switches := func() (n int) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
		for _, task := range tasks {
			text, _ := os.ReadFile(task)
			_, after, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
			count, _, _ := strings.Cut(after, "\n")
			k, _ := strconv.Atoi(strings.TrimSpace(count))
			n += k
		}
		return n
	}
	// The runtime itself comes to rest some time after the start.
	until(t, "half a second without a wake-up", func() bool {
		before := switches()
		time.Sleep(500 * time.Millisecond)
		return switches() == before
	})
}
