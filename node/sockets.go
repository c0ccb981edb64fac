package node

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"evermore/nofollow"
)

const (
	// nodesBacklog is how many connections node by default has wait in the kernel for
	// it to accept them (server.listen()); the kernel bounds that by net.core.somaxconn.
	nodesBacklog = 511
	// copies is how often a process gets each socket: so often it can close it and
	// listen once more, as get-port and its kin do.
	copies = 4
	// firstFile is the number of the first descriptor that a process inherits
	// beside its standard streams.
	firstFile = 3
)

// Sockets are the listening sockets that are kept for an app. All methods may be
// called at any time.
type Sockets struct {
	mu    sync.RWMutex
	owner *syscall.Credential
	list  []*socket
}

// socket is one of them.
type socket struct {
	Address
	told     held
	fd       int // -1: a unix socket that is refusing
	refusing bool
}

// held describes a socket to the preload.
type held struct {
	Name string `json:"name"`           // what the process calls it, an Address
	Host string `json:"host,omitempty"` // that it is bound to
	Port uint16 `json:"port,omitempty"`
	Any  bool   `json:"any,omitempty"` // bound as node binds without a host
	Path string `json:"path,omitempty"`
	File string `json:"file,omitempty"` // the inode of the path
	Ino  uint64 `json:"ino"`            // of the socket itself: it is the same in every process
	FDs  []int  `json:"fds"`
}

// Held is what a process inherits of the sockets.
type Held []held

// NewSockets gives none yet. owner, when not nil, is whom the files of unix
// sockets will belong to: the user of the app, whose they would be without
// evermore.
func NewSockets(owner *syscall.Credential) *Sockets { return &Sockets{owner: owner} }

// Add binds an address and listens on it, with the rights of the caller. Adding
// it again changes nothing.
func (s *Sockets) Add(a Address) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index(a) >= 0 {
		return nil
	}
	n := &socket{Address: a, fd: -1}
	if err := n.open(s.owner); err != nil {
		return err
	}
	s.list = append(s.list, n)
	return nil
}

// Regain takes the sockets that an earlier supervisor has held for a process, which
// has this environment and serves on: the addresses that it may take are held as if
// they had been added. The environment is the process's to write: what it says is looked
// at. It needs pidfd_getfd(2), of Linux 5.6, and the right to trace the process, see
// ptrace(2); without them nothing is regained.
func (s *Sockets) Regain(pidfd int, env []string, may func(Address) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, h := range heldBy(env) {
		if s.index(a) >= 0 || !may(a) {
			continue
		}
		for _, theirs := range h.FDs[:min(len(h.FDs), copies)] {
			fd, err := unix.PidfdGetfd(pidfd, theirs, 0)
			if err != nil {
				continue
			}
			if n := (&socket{Address: a, fd: fd}); n.recognize() {
				s.list = append(s.list, n)
				break
			}
			unix.Close(fd)
		}
	}
}

// recognize tells whether the socket listens on its address, as open would have made
// it, and describes it.
func (n *socket) recognize() bool {
	var st, file unix.Stat_t
	kind, err := unix.GetsockoptInt(n.fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM || unix.Fstat(n.fd, &st) != nil {
		return false
	}
	if listens, err := unix.GetsockoptInt(n.fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
		return false
	}
	bound, err := unix.Getsockname(n.fd)
	if err != nil {
		return false
	}
	n.told.Ino = st.Ino
	var at netip.AddrPort
	switch b := bound.(type) {
	case *unix.SockaddrUnix:
		n.told.Path = n.Path
		if b.Name != n.Path && !strings.HasPrefix(b.Name, nofollow.Through) || unix.Lstat(n.Path, &file) != nil || file.Mode&unix.S_IFMT != unix.S_IFSOCK {
			return false
		}
		n.told.File = strconv.FormatUint(file.Ino, 10)
		return true
	case *unix.SockaddrInet4:
		at = netip.AddrPortFrom(netip.AddrFrom4(b.Addr), uint16(b.Port))
	case *unix.SockaddrInet6:
		at = netip.AddrPortFrom(netip.AddrFrom16(b.Addr), uint16(b.Port))
	default:
		return false
	}
	n.told.Host, n.told.Port, n.told.Any = at.Addr().String(), at.Port(), n.Host == ""
	return n.Path == "" && at.Port() == n.Port && (n.Host == n.told.Host || n.Host == "" && at.Addr().IsUnspecified())
}

// Addresses are those that are held, in the order in which they were added.
func (s *Sockets) Addresses() []Address {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]Address, len(s.list))
	for i, n := range s.list {
		list[i] = n.Address
	}
	return list
}

// Inherit calls start with the descriptors that a process is to get, from number
// 3 on, and with what it is to be told of them by Link.Environ. Until start
// returns they stay what they are.
func (s *Sockets) Inherit(start func(files []uintptr, held Held) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var files []uintptr
	var told Held
	for _, n := range s.list {
		if n.fd < 0 {
			continue
		}
		h := n.told
		h.Name, h.FDs = n.String(), nil
		for range copies {
			h.FDs = append(h.FDs, firstFile+len(files))
			files = append(files, uintptr(n.fd))
		}
		told = append(told, h)
	}
	return start(files, told)
}

// Release gives an address up for good, whoever has inherited it: the next one to
// bind it gets it. It tells whether it was held.
func (s *Sockets) Release(a Address) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.index(a)
	if i < 0 {
		return false
	}
	s.list[i].close()
	s.list = slices.Delete(s.list, i, i+1)
	return true
}

// Refuse lets connections be refused, those that wait included, until Resume is
// called or a process listens on what it has inherited. For clients and balancers
// it is as if nobody listened.
func (s *Sockets) Refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.list {
		n.refuse()
	}
}

// Resume ends Refuse for TCP. What another process listens on meanwhile is an
// error, and the rest is resumed all the same.
func (s *Sockets) Resume() error {
	return s.reopen(func(n *socket) bool { return n.Path == "" })
}

// Reopen ends Refuse for unix sockets: none that was refused listens again, so the
// next process is to inherit another one; so it is where somebody has removed the file.
// Errors are as those of Resume.
func (s *Sockets) Reopen() error {
	s.mu.Lock()
	for _, n := range s.list {
		var st unix.Stat_t
		if n.Path != "" && n.fd >= 0 && errors.Is(unix.Lstat(n.Path, &st), unix.ENOENT) {
			unix.Close(n.fd) // nobody finds it any more; who has it goes on with it
			n.fd, n.refusing = -1, true
		}
	}
	s.mu.Unlock()
	return s.reopen(func(n *socket) bool { return n.Path != "" })
}

func (s *Sockets) reopen(which func(*socket) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, n := range s.list {
		if n.refusing && which(n) {
			errs = append(errs, n.open(s.owner))
		}
	}
	return errors.Join(errs...)
}

// Vacate takes note that nobody is known to listen: Occupied tells whether somebody has
// begun to since.
func (s *Sockets) Vacate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.list {
		if n.fd >= 0 && !n.refusing {
			_ = unix.Listen(n.fd, backlog())
		}
	}
}

// Occupied tells whether a process has listened on a TCP socket that it has inherited,
// since it was opened or Vacate was called: listen(2) changes the limit of those who
// wait, which is another one than evermore's where the app takes node's default.
func (s *Sockets) Occupied() bool {
	for _, b := range s.Backlogs() {
		if b.Limit != backlog() {
			return true
		}
	}
	return false
}

// backlog is how many connections may wait where nobody but evermore listens: not as
// many as node has wait.
var backlog = sync.OnceValue(func() int {
	most, err := number("/proc/sys/net/core/somaxconn", 32)
	if err != nil {
		return nodesBacklog - 1
	}
	if most > nodesBacklog {
		return nodesBacklog + 1
	}
	return max(int(most)-1, 1)
})

// number reads one from a file of the kernel's.
func number(path string, bits int) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, bits)
}

// Close gives all addresses up.
func (s *Sockets) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.list {
		n.close()
	}
	s.list = nil
}

// Permits tells whether the app's user could bind an address by itself, as far as
// evermore can know: what the app has asked for by listening there gives it no right
// that it does not have. A path is none that is known: its folders may be others
// when it is bound.
func (s *Sockets) Permits(a Address) error {
	switch {
	case s.owner == nil || s.owner.Uid == uint32(os.Geteuid()):
		return nil
	case a.Path != "":
		return errors.New("a unix socket of another user is held only where --hold names it")
	case a.Port < unprivileged():
		return fmt.Errorf("ports below %d are held for another user only where --hold names them", unprivileged())
	}
	return nil
}

// unprivileged is the first port that needs no right, see ip_unprivileged_port_start
// in the kernel's Documentation/networking/ip-sysctl.rst.
func unprivileged() uint16 {
	n, err := number("/proc/sys/net/ipv4/ip_unprivileged_port_start", 16)
	if err != nil {
		return 1024
	}
	return uint16(n)
}

// Backlog tells how many connections wait to be accepted.
type Backlog struct {
	Address
	Waiting, Limit int
}

// Backlogs are those of the TCP sockets that listen. Of a socket that listens the
// kernel gives the length of the accept queue as tcpi_unacked and its limit as
// tcpi_sacked (tcp_get_info() in net/ipv4/tcp.c; ss(8) shows them as Recv-Q and
// Send-Q). Which connections have waited, it does not count.
func (s *Sockets) Backlogs() []Backlog {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []Backlog
	for _, n := range s.list {
		if n.Port == 0 {
			continue
		}
		const listening = 10 // TCP_LISTEN, include/net/tcp_states.h
		if info, err := unix.GetsockoptTCPInfo(n.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && info.State == listening {
			list = append(list, Backlog{n.Address, int(info.Unacked), int(info.Sacked)})
		}
	}
	return list
}

func (s *Sockets) index(a Address) int {
	return slices.IndexFunc(s.list, func(n *socket) bool { return n.Address == a })
}

// open lets the socket listen, and binds it where it isn't.
func (n *socket) open(owner *syscall.Credential) (err error) {
	switch {
	case n.fd >= 0:
		err = unix.Listen(n.fd, backlog())
	case n.Path != "":
		err = n.bindUnix(owner)
	default:
		err = n.bindTCP()
	}
	if err != nil {
		return fmt.Errorf("cannot hold %s: %w", n.Address, describe(err))
	}
	n.refusing = false
	return nil
}

// describe says what can be done about an error of bind(2) or listen(2).
func describe(err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("something else listens there: %w", err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("this machine does not have that address: %w", err)
	}
	return err
}

func (n *socket) bindTCP() error {
	if n.Host != "" {
		ip, err := netip.ParseAddr(n.Host)
		if err != nil {
			return err
		}
		return n.bindIP(ip)
	}
	// As node's setupListenHandle(), lib/net.js.
	n.told.Any = true
	if n.bindIP(netip.IPv6Unspecified()) == nil {
		return nil
	}
	return n.bindIP(netip.IPv4Unspecified())
}

func (n *socket) bindIP(ip netip.Addr) error {
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(n.Port), Addr: ip.As16()})
	if ip.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(n.Port), Addr: ip.As4()}
	}
	n.told.Host, n.told.Port = ip.String(), n.Port
	return n.bind(family, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if family == unix.AF_INET6 {
			// Whatever net.ipv6.bindv6only says, as libuv does.
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
				return err
			}
		}
		return unix.Bind(fd, to)
	})
}

// bindUnix replaces a socket that nobody listens on. The mode of the file goes by
// the umask, as node's.
func (n *socket) bindUnix(owner *syscall.Credential) error {
	n.told.Path = n.Path
	folder, err := nofollow.Parent(n.Path)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := removeStale(folder); err != nil {
		return err
	}
	return n.bind(unix.AF_UNIX, func(fd int) error {
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: folder.Path()}); err != nil {
			return err
		}
		err := folder.Change(func(path string, st unix.Stat_t) error {
			n.told.File = strconv.FormatUint(st.Ino, 10)
			if owner == nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
				return nil
			}
			return unix.Chown(path, int(owner.Uid), int(owner.Gid))
		})
		if err != nil {
			_ = folder.Unlink()
		}
		return err
	})
}

// removeStale removes a socket that nobody listens on. What else is there is an error.
func removeStale(folder *nofollow.Folder) error {
	st, err := folder.Stat()
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return errors.New("a file that is no socket is there")
	}
	// A socket of another type is told whether there is one (EPROTOTYPE, connect(2)), and
	// disturbs nobody by a connection.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: folder.Path()}); err != unix.ECONNREFUSED {
		return unix.EADDRINUSE
	}
	return folder.Unlink()
}

// bind makes the socket of a family, which bound gives its address.
func (n *socket) bind(family int, bound func(fd int) error) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = bound(fd)
	if err == nil {
		err = unix.Listen(fd, backlog())
	}
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	n.fd, n.told.Ino = fd, st.Ino
	return nil
}

// refuse takes a TCP socket out of its listening state, for all who have it: in
// Linux shutdown(2) does that (inet_shutdown() in net/ipv4/af_inet.c), and
// listen(2) undoes it. A unix socket would never listen again; its file is what
// clients find.
func (n *socket) refuse() {
	n.refusing = true
	switch {
	case n.fd < 0:
	case n.Path != "":
		n.close()
	default:
		_ = unix.Shutdown(n.fd, unix.SHUT_RD)
	}
}

// unlink removes the file of a unix socket, unless it is another one by now.
func (n *socket) unlink() {
	folder, err := nofollow.Parent(n.Path)
	if err != nil {
		return
	}
	defer folder.Close()
	if st, err := folder.Stat(); err == nil && strconv.FormatUint(st.Ino, 10) == n.told.File {
		_ = folder.Unlink()
	}
}

// close lets nobody listen on the socket any more, whoever has inherited it: a
// shell, say, would keep it without knowing.
func (n *socket) close() {
	if n.fd < 0 {
		return
	}
	if n.Path != "" {
		n.unlink()
	}
	_ = unix.Shutdown(n.fd, unix.SHUT_RD)
	// Who waits at a unix socket would do so for as long as anybody has inherited it.
	for n.Path != "" {
		fd, _, err := unix.Accept4(n.fd, unix.SOCK_CLOEXEC)
		if err == nil {
			unix.Close(fd)
		} else if err != unix.EINTR {
			break
		}
	}
	unix.Close(n.fd)
	n.fd = -1
}
