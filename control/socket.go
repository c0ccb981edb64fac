package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A supervisor listens on two sockets. The first is a file of mode 0600 in the
// folder sock of its root. It can be deleted under the supervisor, and there may
// be no folder that can be written: so the same answers are also given on an
// abstract socket (unix(7)), which has no file. Both sides look at who the other
// one is (SO_PEERCRED): the supervisor serves its own user and root, the client
// speaks to the process of the record and to no other.

// listen opens the sockets of a record. A missing one is an error only when there
// is no other.
func (r *Record) listen(root string) ([]net.Listener, error) {
	var listeners []net.Listener
	file, err := listenFile(filepath.Join(root, "sock"), r.socket())
	if err == nil {
		listeners = append(listeners, file)
	}
	abstract, errA := net.ListenUnix("unix", r.abstract())
	if errA == nil {
		listeners = append(listeners, abstract)
	}
	if len(listeners) == 0 {
		return nil, errors.Join(err, errA)
	}
	for i, l := range listeners {
		listeners[i] = guarded{l.(*net.UnixListener)}
	}
	return listeners, nil
}

func (r *Record) abstract() *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: "@evermore/" + r.name()}
}

func listenFile(dir, name string) (net.Listener, error) {
	if err := mkdir(dir); err != nil {
		return nil, err
	}
	if err := private(dir); err != nil {
		return nil, err
	}
	// Whatever the umask: the folder is this user's alone meanwhile.
	var l *net.UnixListener
	err := within(dir, func(short string) (err error) {
		path := short + "/" + name
		_ = os.Remove(path) // of an earlier process of this name there is none
		l, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
		if err == nil {
			err = os.Chmod(path, 0o600)
		}
		return err
	})
	if err != nil {
		if l != nil {
			l.Close()
		}
		return nil, fmt.Errorf("cannot listen in %s: %w", dir, err)
	}
	l.SetUnlinkOnClose(false) // the short path is gone by then
	return l, nil
}

// within runs f with a short path to a folder: a socket's address has room for
// 107 bytes (unix(7)).
func within(dir string, f func(short string) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return f("/proc/self/fd/" + strconv.Itoa(fd))
}

// dial connects to the supervisor of a record.
func (r *Record) dial(ctx context.Context) (*net.UnixConn, error) {
	var d net.Dialer
	var conn net.Conn
	err := within(filepath.Join(r.root, "sock"), func(short string) (err error) {
		conn, err = d.DialContext(ctx, "unix", short+"/"+r.socket())
		return err
	})
	if err != nil && ctx.Err() == nil {
		conn, err = d.DialContext(ctx, "unix", r.abstract().Name)
	}
	if err != nil {
		return nil, err
	}
	c := conn.(*net.UnixConn)
	cred, err := peer(c)
	if err == nil && int(cred.Pid) != r.PID {
		err = fmt.Errorf("its socket belongs to process %d", cred.Pid)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// guarded is a listener that accepts this user and root alone, of this pid
// namespace or one below it.
type guarded struct{ *net.UnixListener }

func (g guarded) Accept() (net.Conn, error) {
	for {
		conn, err := g.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if cred, err := peer(conn); err == nil && cred.Pid > 0 && (cred.Uid == uint32(os.Geteuid()) || cred.Uid == 0) {
			return conn, nil
		}
		conn.Close()
	}
}

// peer tells who is at the other end (unix(7), SO_PEERCRED). A pid of 0 is that of
// a process that cannot be seen from here.
func peer(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil {
		return nil, e
	}
	return cred, err
}
