package control

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A supervisor listens on two sockets. The first is a file of mode 0600 in the
// folder sock of its root. It can be deleted under the supervisor, and there may
// be no folder that can be written: so the same answers are also given on an
// abstract socket (unix(7)), which has no file. Both sides look at who the other
// one is (SO_PEERCRED): the supervisor serves its own user and root, the client
// speaks to the process of the record and to no other. The supervisor also refuses
// who is in a pid namespace below its own: the abstract socket belongs to the
// network namespace, and root in a container on the host's network is uid 0 too
// (CVE-2020-15257 was such a socket).

// listen opens the sockets of a record. A missing one is an error only when there
// is no other.
func (r *Record) listen() ([]net.Listener, error) {
	var listeners []net.Listener
	file, err := listenFile(filepath.Join(r.root, "sock"), r.socket())
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
	depth := namespaces("self")
	for i, l := range listeners {
		listeners[i] = guarded{l.(*net.UnixListener), depth}
	}
	return listeners, nil
}

func (r *Record) abstract() *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: abstractNames + r.name() + "." + rootMark(r.root)}
}

const abstractNames = "@evermore/"

// rootMark stands for a root in the name of a socket: whoever uses several of them
// wants to see their apps apart.
func rootMark(root string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(root))
	return fmt.Sprintf("%08x", h.Sum32())
}

// strays gives the supervisors of a root whose records were deleted under them:
// their abstract sockets are still there (proc_net(5), "unix").
func (here Record) strays(root string, known map[string]bool) []Entry {
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil
	}
	var found []Entry
	head := abstractNames + here.Boot[:min(len(here.Boot), 8)] + "." + here.Namespace + "."
	tail := "." + rootMark(root)
	for line := range strings.Lines(string(text)) {
		_, name, ok := strings.Cut(strings.TrimSpace(line), head)
		name, mine := strings.CutSuffix(name, tail)
		if !ok || !mine {
			continue
		}
		r := here
		pid, start, _ := strings.Cut(name, ".")
		var errP, errS error
		r.PID, errP = strconv.Atoi(pid)
		r.StartTime, errS = strconv.ParseUint(start, 10, 64)
		r.root = root
		var st unix.Stat_t
		if errP != nil || errS != nil || known[r.file()] || !r.Alive() ||
			unix.Stat("/proc/"+pid, &st) != nil || st.Uid != uint32(os.Geteuid()) {
			continue
		}
		known[r.file()] = true
		found = append(found, Entry{r, Running})
	}
	return found
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
func (r *Record) dial(ctx context.Context) (conn *net.UnixConn, err error) {
	err = within(filepath.Join(r.root, "sock"), func(short string) (err error) {
		conn, err = r.connect(ctx, short+"/"+r.socket())
		return err
	})
	if err != nil && ctx.Err() == nil {
		conn, err = r.connect(ctx, r.abstract().Name)
	}
	return conn, err
}

// connect connects to an address, if it is the supervisor that listens there.
func (r *Record) connect(ctx context.Context, address string) (*net.UnixConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", address)
	if err != nil {
		return nil, err
	}
	c := conn.(*net.UnixConn)
	cred, err := peer(c)
	if err == nil && (int(cred.Pid) != r.PID || cred.Uid != uint32(os.Geteuid())) {
		err = fmt.Errorf("its socket belongs to process %d of uid %d", cred.Pid, cred.Uid)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// guarded is a listener that accepts this user and root alone, of this pid
// namespace.
type guarded struct {
	*net.UnixListener
	depth int // see namespaces
}

func (g guarded) Accept() (net.Conn, error) {
	for {
		conn, err := g.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if cred, err := peer(conn); err == nil && g.admits(cred) {
			return conn, nil
		}
		conn.Close()
	}
}

func (g guarded) admits(cred *unix.Ucred) bool {
	return cred.Pid > 0 && (cred.Uid == uint32(os.Geteuid()) || cred.Uid == 0) &&
		namespaces(strconv.Itoa(int(cred.Pid))) == g.depth
}

// namespaces counts the pid namespaces in which a process of /proc has a pid: one
// that is seen from here is in this namespace, or below it and has more (NSpid,
// proc_pid_status(5)). 0: it cannot be told.
func namespaces(pid string) int {
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	_, pids, _ := strings.Cut(string(text), "\nNSpid:")
	pids, _, _ = strings.Cut(pids, "\n")
	return len(strings.Fields(pids))
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
