package node

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]Address{
		"3000":             {Port: 3000},
		"127.0.0.1:80":     {Host: "127.0.0.1", Port: 80},
		"[::1]:65535":      {Host: "::1", Port: 65535},
		"[0:0::0]:1":       {Host: "::", Port: 1},
		":8080":            {Port: 8080},
		"unix:/run/a.sock": {Path: "/run/a.sock"},
		"unix:a.sock":      {Path: "/app/a.sock"},
		"unix:../a:b":      {Path: "/a:b"},
	} {
		got, err := ParseAddress(text, "/app")
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
		if again, err := ParseAddress(got.String(), ""); err != nil || again != got {
			t.Errorf("%s, then %s: %+v, %v", text, got, again, err)
		}
	}
	for text, want := range map[string]string{
		"":                                  "no port",
		"0":                                 "no port",
		"65536":                             "no port",
		"-1":                                "no port",
		"http":                              "no port",
		"127.0.0.1":                         "no port",
		"::1:80":                            "is not an address",
		"localhost:80":                      "does not begin with an IP address: write 127.0.0.1:80 or [::1]:80",
		"[fe80::1%lo]:80":                   "does not begin with an IP address",
		"127.0.0.1:":                        "no port",
		"unix:":                             "names no socket",
		"unix:/" + strings.Repeat("x", 107): "may have 107 bytes",
	} {
		if got, err := ParseAddress(text, "/"); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %+v, %v", text, got, err)
		}
	}
}

// What another user's app has asked for is bound with that user's rights at most.
func TestPermits(t *testing.T) {
	low, high := Address{Port: 80}, Address{Port: 65535}
	path := Address{Path: "/etc/app.sock"}
	other := NewSockets(&syscall.Credential{Uid: uint32(os.Geteuid()) + 1})
	if (other.Permits(low) == nil) != (unprivileged() <= 80) || other.Permits(high) != nil || other.Permits(path) == nil {
		t.Errorf("another user's: %v, %v, %v", other.Permits(low), other.Permits(high), other.Permits(path))
	}
	for _, own := range []*Sockets{NewSockets(nil), NewSockets(&syscall.Credential{Uid: uint32(os.Geteuid())})} {
		for _, a := range []Address{low, high, path} {
			if err := own.Permits(a); err != nil {
				t.Errorf("%s: %v", a, err)
			}
		}
	}
}

func sockets(t *testing.T, list ...Address) *Sockets {
	t.Helper()
	s := NewSockets(nil)
	t.Cleanup(s.Close)
	for _, a := range list {
		if err := s.Add(a); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func dial(a Address) error {
	network, to := "tcp", net.JoinHostPort(a.Host, strings.TrimPrefix(a.String(), a.Host+":"))
	if a.Path != "" {
		network, to = "unix", a.Path
	} else if a.Host == "" {
		to = local(a.Port)
	}
	c, err := net.Dial(network, to)
	if err == nil {
		c.Close()
	}
	return err
}

// Clients connect while nobody accepts; they are refused from Refuse to Resume,
// and after Release, whoever else has the socket.
func TestRefuseResumeRelease(t *testing.T) {
	for _, a := range []Address{{Port: freePort(t)}, {Path: filepath.Join(t.TempDir(), "s")}} {
		s := sockets(t, a)
		if err := s.Add(a); err != nil || len(s.Addresses()) != 1 {
			t.Errorf("%s: added again: %v, %v", a, err, s.Addresses())
		}
		var inherited int
		_ = s.Inherit(func(files []uintptr, held Held) (err error) {
			if len(files) != copies || len(held) != 1 || !slices.Equal(held[0].FDs, []int{3, 4, 5, 6}) {
				t.Errorf("inherited: %v, %+v", files, held)
			}
			inherited, err = unix.Dup(int(files[0]))
			return err
		})
		defer unix.Close(inherited)
		if err := dial(a); err != nil {
			t.Errorf("%s: %v", a, err)
		}
		s.Refuse()
		s.Refuse()
		if err := dial(a); err == nil {
			t.Errorf("%s: connected while it is refusing", a)
		}
		if len(s.Backlogs()) != 0 {
			t.Errorf("%s: %+v", a, s.Backlogs())
		}
		if err := errors.Join(s.Resume(), s.Reopen()); err != nil {
			t.Errorf("%s: %v", a, err)
		}
		if err := dial(a); err != nil {
			t.Errorf("%s: after Resume: %v", a, err)
		}
		if !s.Release(a) || s.Release(a) {
			t.Errorf("%s: Release", a)
		}
		if err := dial(a); err == nil {
			t.Errorf("%s: connected after Release", a)
		}
		if err := sockets(t).Add(a); err != nil {
			t.Errorf("%s: after Release: %v", a, err)
		}
	}
}

// An app that is slow to start listens on what is refusing, and all is well again.
func TestListenWhileRefusing(t *testing.T) {
	a := Address{Port: freePort(t)}
	s := sockets(t, a)
	s.Refuse()
	_ = s.Inherit(func(files []uintptr, _ Held) error { return unix.Listen(int(files[0]), 511) })
	if err := dial(a); err != nil {
		t.Error(err)
	}
}

func TestResumeTaken(t *testing.T) {
	a := Address{Host: "127.0.0.1", Port: freePort(t)}
	s := sockets(t, a)
	s.Refuse()
	l, err := net.Listen("tcp4", a.String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := s.Resume(); err == nil || !strings.Contains(err.Error(), "something else listens there") {
		t.Error(err)
	}
	l.Close()
	if err := s.Resume(); err != nil {
		t.Error(err)
	}
}

func TestAddFails(t *testing.T) {
	dir := t.TempDir()
	a, living := Address{Port: freePort(t)}, Address{Path: filepath.Join(dir, "living")}
	sockets(t, a, living)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		a    Address
		want string
	}{
		{a, "something else listens there"},
		{living, "something else listens there"},
		{Address{Host: "127.0.0.1", Port: a.Port}, "something else listens there"},
		{Address{Host: "192.0.2.1", Port: a.Port}, "this machine does not have that address"},
		{Address{Path: file}, "a file that is no socket is there"},
		{Address{Path: filepath.Join(dir, "no", "s")}, "no such file or directory"},
	} {
		err := sockets(t).Add(c.a)
		if err == nil || !strings.HasPrefix(err.Error(), "cannot hold "+c.a.String()+": "+c.want) {
			t.Errorf("%s: %v", c.a, err)
		}
	}
	if err := dial(living); err != nil {
		t.Error(err)
	}
}

// The socket of a dead process is replaced, and only an own one is removed.
func TestUnixSocketFile(t *testing.T) {
	a := Address{Path: filepath.Join(t.TempDir(), "s")}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: a.Path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	old := syscall.Umask(0o027)
	s := NewSockets(&syscall.Credential{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())})
	err = s.Add(a)
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(a.Path); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Remove(a.Path); err != nil {
		t.Fatal(err)
	}
	other := sockets(t, a)
	s.Close()
	if err := dial(a); err != nil {
		t.Errorf("another's socket is gone: %v", err)
	}
	other.Close()
	if _, err := os.Lstat(a.Path); err == nil {
		t.Error("the own one is left")
	}
}

func TestBacklogs(t *testing.T) {
	a, path := Address{Port: freePort(t)}, Address{Path: filepath.Join(t.TempDir(), "s")}
	s := sockets(t, a, path)
	for range 3 {
		c, err := net.Dial("tcp", local(a.Port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	until(t, "three to wait", func() bool {
		b := s.Backlogs()
		return len(b) == 1 && b[0].Address == a && b[0].Waiting == 3
	})
	if b := s.Backlogs()[0]; b.Limit < 1 || b.Limit > backlog() {
		t.Errorf("limit %d", b.Limit)
	}
	// Whoever listens on what it has inherited is seen, though it says nothing.
	if s.Occupied() {
		t.Error("somebody listens")
	}
	if err := unix.Listen(s.list[0].fd, nodesBacklog); err != nil {
		t.Fatal(err)
	}
	if !s.Occupied() {
		t.Error("node listens, and is not seen")
	}
	s.Vacate()
	if s.Occupied() {
		t.Error("somebody listens after Vacate")
	}
	s.Refuse()
	s.Vacate()
	if c, err := net.Dial("tcp", local(a.Port)); err == nil {
		c.Close()
		t.Error("Vacate listens on what is to refuse")
	}
}

func TestHeldBy(t *testing.T) {
	env := (&Link{}).Environ(nil, []string{"EVERMORE_NODE={", "A=1"}, Held{{Name: "3000"}, {Name: "unix:/s"}, {Name: "?"}})
	if got := HeldBy(env); !slices.Equal(got, []Address{{Port: 3000}, {Path: "/s"}}) {
		t.Errorf("held were %v", got)
	}
	if got := HeldBy([]string{"EVERMORE_NODE={", "A=1"}); got != nil {
		t.Errorf("held were %v", got)
	}
}

// What is taken from a process is what its environment says, and listens.
func TestRegain(t *testing.T) {
	s := sockets(t, Address{Port: freePort(t)}, Address{Host: "127.0.0.1", Port: freePort(t)}, Address{Path: filepath.Join(t.TempDir(), "s")})
	var env []string
	_ = s.Inherit(func(_ []uintptr, h Held) error {
		for i := range h {
			h[i].FDs = []int{1, s.list[i].fd} // of this process
		}
		env = (&Link{}).Environ(nil, nil, h)
		return nil
	})
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	all := func(Address) bool { return true }
	regain := func(env []string, may func(Address) bool) *Sockets {
		n := NewSockets(nil)
		n.Regain(pidfd, env, may)
		return n
	}
	n := regain(env, all)
	if !slices.Equal(n.Addresses(), s.Addresses()) {
		t.Fatalf("regained %v of %v", n.Addresses(), s.Addresses())
	}
	for i, got := range n.list {
		if want := s.list[i]; got.told.Ino != want.told.Ino || got.told.Host != want.told.Host || got.told.Port != want.told.Port ||
			got.told.Any != want.told.Any || got.told.Path != want.told.Path || got.told.File != want.told.File {
			t.Errorf("%+v is regained as %+v", want.told, got.told)
		}
		_ = unix.Close(got.fd)
	}
	if got := regain(env, func(a Address) bool { return a.Path != "" }); len(got.list) != 1 {
		t.Errorf("what it may not take: %v", got.Addresses())
	}
	// Another name than the socket's, one that does not listen, and a file.
	other := strings.ReplaceAll(strings.Join(env, "\x00"), s.list[0].String(), "1")
	if got := regain(strings.Split(other, "\x00"), func(a Address) bool { return a.Port == 1 }); len(got.list) != 0 {
		t.Errorf("by another name: %v", got.Addresses())
	}
	s.list[1].refuse()
	if got := regain(env, func(a Address) bool { return a == s.list[1].Address }); len(got.list) != 0 {
		t.Errorf("what does not listen: %v", got.Addresses())
	}
}

// In a folder of another user's, who may put anything in its place, a socket is bound as
// in any other.
func TestUnixSocketOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives a socket to another user")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	a := Address{Path: filepath.Join(dir, "s")}
	var env []string
	for range 2 { // the second time a stale one is there
		s := NewSockets(&syscall.Credential{Uid: 65534, Gid: 65534})
		if err := s.Add(a); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(a.Path, &st); err != nil || st.Uid != 65534 || st.Gid != 65534 || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
			t.Errorf("%+v, %v", st, err)
		}
		c, err := net.Dial("unix", a.Path)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if err := NewSockets(nil).Add(a); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("a second time: %v", err)
		}
		_ = s.Inherit(func(_ []uintptr, h Held) error {
			h[0].FDs = []int{s.list[0].fd}
			env = (&Link{}).Environ(nil, nil, h)
			return nil
		})
		pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
		if err != nil {
			t.Fatal(err)
		}
		n := NewSockets(nil)
		n.Regain(pidfd, env, func(Address) bool { return true })
		if !slices.Equal(n.Addresses(), []Address{a}) {
			t.Errorf("regained: %v", n.Addresses())
		}
		for _, one := range n.list {
			unix.Close(one.fd)
		}
		unix.Close(pidfd)
		if err := os.Link(a.Path, a.Path+"2"); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if _, err := os.Lstat(a.Path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its file is left: %v", err)
		}
		if err := os.Rename(a.Path+"2", a.Path); err != nil {
			t.Fatal(err)
		}
	}
}

// Who waits at a unix socket when it begins to refuse does not wait for ever, though a
// process has inherited it.
func TestRefuseWhoWaits(t *testing.T) {
	a := Address{Path: filepath.Join(t.TempDir(), "s")}
	s := sockets(t, a)
	inherited, err := unix.Dup(s.list[0].fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	for range 3 {
		c, err := net.Dial("unix", a.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		defer func() {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a client that waited: %v", err)
			}
		}()
	}
	s.Refuse()
}
