package node

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"evermore/nofollow"
)

// What a process may do on the link. The app's code runs in the same process as
// the preload, so all of it is suspect.
const (
	longestLine = 64 << 10 // bytes
	mostConns   = 256      // for all processes and threads of the app
	mostPlaces  = 64       // that a thread listens on
	mostLines   = 200      // at once, and
	linesRate   = 50       // a second
	refusedRate = time.Second
	// acceptRetry is the pause after accept(2) failed, for want of descriptors say.
	acceptRetry = 100 * time.Millisecond
	// fileName begins the names of the files of links. What nobody listens on and is
	// older than staleAge was left behind; it is looked for among mostNames.
	fileName  = ".evermore-node-"
	staleAge  = time.Minute
	mostNames = 10000
)

// Options say what a link is for.
type Options struct {
	// Owner tells which process that evermore started a process belongs to: itself,
	// or one above it. What belongs to none is refused. It is called by goroutines
	// of the link.
	Owner func(pid int) (main int, ok bool)
	// Sockets are what processes may ask to release; nil: none.
	Sockets *Sockets
	// Dirs are folders for the socket's file, of which the first that will do is
	// taken; node from version 22 on needs none. The app's user must be able to reach
	// them.
	Dirs []string
	// PreloadDirs are folders for the file of the preload, of which the first that will
	// do is taken. The app's users must be able to read it for as long as the app runs;
	// evermore may have ended by then. Where none will do, node gets the preload in its
	// environment, and takes the ESM loader for every app.
	PreloadDirs []string
	// AtStart has the main process open the link when it starts, as Messages does;
	// otherwise it does so when a server listens. Pings and stats of an app that never
	// listens need it.
	AtStart bool
	// Stats has node measure what Link.Stats asks for.
	Stats bool
	// Messages gives the main process pm2's process.send() and messages.
	Messages bool
}

// Link is a line to each process and thread of the app that runs the preload: a
// unix socket on which both sides write one JSON object a line.
type Link struct {
	options   Options
	name      string // of the abstract socket
	file      string
	listeners []*net.UnixListener
	events    chan Event
	done      chan struct{}
	goroutine sync.WaitGroup

	mu       sync.Mutex
	conns    map[*conn]struct{}
	draining map[int]*drain // by main
	waiters  map[int64]waiter
	last     int64 // the number of the last question
	refused  time.Time
	closed   bool
}

type waiter struct {
	conn   *conn
	answer chan *Stats
}

// drain is what a run was told: what connects later has to be told as well. It
// lasts until the run's last connection is gone.
type drain struct {
	line     string
	stopping bool
	waiting  map[*conn]struct{} // those that have not answered yet
	told     bool               // Drained was
}

const stoppingLine = `{"stopping":true}`

// conn is the line to one thread.
type conn struct {
	net *net.UnixConn
	raw interface {
		Write(func(uintptr) bool) error
	}
	from From
	// Under the link's mutex:
	held     map[string]int // how often it listens on each held address
	unheld   map[Address]int
	pinged   time.Time // when it was asked for a Pong that it owes; zero: it owes none
	answered bool      // it has sent one
	asked    bool      // for Stats that it owes
	why      string    // it was dropped
}

// Listen opens a link. An abstract socket needs no folder; node before version 22
// can't connect to one, and gets a file. No file is no error: then those versions
// serve without a link.
func Listen(o Options) (*Link, error) {
	l := &Link{
		options: o, events: make(chan Event), done: make(chan struct{}),
		conns: map[*conn]struct{}{}, draining: map[int]*drain{}, waiters: map[int64]waiter{},
		name: fmt.Sprintf("evermore-node/%d.%s", os.Getpid(), rand.Text()),
	}
	abstract, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: "@" + l.name})
	if err != nil {
		return nil, fmt.Errorf("cannot listen for node: %w", err)
	}
	l.listeners = append(l.listeners, abstract)
	for _, dir := range o.Dirs {
		if file, path, err := listenIn(dir); err == nil {
			l.file = path
			l.listeners = append(l.listeners, file)
			break
		}
	}
	for _, listener := range l.listeners {
		l.goroutine.Go(func() { l.accept(listener) })
	}
	l.goroutine.Go(l.sweep)
	return l, nil
}

// listenIn listens on a new file of a folder, which all can connect to: who may speak is
// decided by who it is.
func listenIn(dir string) (l *net.UnixListener, path string, err error) {
	path = filepath.Join(dir, fileName+rand.Text())
	if l, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path}); err != nil {
		return nil, "", err
	}
	folder, err := nofollow.Parent(path)
	if err == nil {
		defer folder.Close()
		err = folder.Change(func(path string, _ unix.Stat_t) error { return os.Chmod(path, 0o666) })
	}
	if err != nil {
		l.Close()
		return nil, "", err
	}
	return l, path, nil
}

// sweep removes the files that links of a killed evermore of the same user have left.
// A young one may be about to be listened on.
func (l *Link) sweep() {
	for _, dir := range l.options.Dirs {
		for _, name := range namesIn(dir) {
			if !strings.HasPrefix(name, fileName) {
				continue
			}
			folder, err := nofollow.Parent(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			st, err := folder.Stat()
			if err == nil && st.Uid == uint32(os.Geteuid()) && time.Since(time.Unix(st.Mtim.Unix())) > staleAge {
				_ = removeStale(folder)
			}
			folder.Close()
		}
	}
}

// namesIn gives what is in a folder, or as much of it as is worth looking at.
func namesIn(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(mostNames)
	return names
}

// HasFile tells whether node before version 22 can reach the link.
func (l *Link) HasFile() bool { return l.file != "" }

// Events gives what the app tells. Somebody has to receive until Close.
func (l *Link) Events() <-chan Event { return l.events }

// Close ends the link. When it returns nothing of it is left.
func (l *Link) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.done)
		for _, listener := range l.listeners {
			listener.Close()
		}
		for c := range l.conns {
			c.net.Close()
		}
	}
	l.mu.Unlock()
	l.goroutine.Wait()
}

func (l *Link) emit(e Event) {
	select {
	case l.events <- e:
	case <-l.done:
	}
}

func (l *Link) accept(listener *net.UnixListener) {
	for {
		c, err := listener.AcceptUnix()
		switch {
		case err == nil:
			l.admit(c)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			select {
			case <-time.After(acceptRetry):
			case <-l.done:
			}
		}
	}
}

// admit lets in who belongs to the app.
func (l *Link) admit(nc *net.UnixConn) {
	raw, err := nc.SyscallConn()
	if err != nil {
		nc.Close()
		return
	}
	pid := peer(raw)
	main, ok := 0, false
	if pid > 0 {
		main, ok = l.options.Owner(pid)
	}
	c := &conn{net: nc, raw: raw, from: From{Main: main, PID: pid, Thread: -1}, held: map[string]int{}, unheld: map[Address]int{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	why := ""
	switch {
	case l.closed:
		nc.Close()
		return
	case !ok:
		why = "it is no process of the app"
	case len(l.conns) >= mostConns:
		why = fmt.Sprintf("there are %d connections already", mostConns)
	}
	if why != "" {
		nc.Close()
		if now := time.Now(); now.Sub(l.refused) >= refusedRate {
			l.refused = now
			l.goroutine.Go(func() { l.emit(Refused{pid, why}) })
		}
		return
	}
	l.conns[c] = struct{}{}
	l.goroutine.Go(func() { l.serve(c) })
}

// peer is the process at the other end when it connected (unix(7), SO_PEERCRED);
// 0: one that this one's pid namespace does not show.
func peer(raw interface{ Control(func(uintptr)) error }) (pid int) {
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// serve reads what one thread tells until it is gone.
func (l *Link) serve(c *conn) {
	err := l.read(c, c.net)
	c.net.Close()
	l.mu.Lock()
	delete(l.conns, c)
	for id, w := range l.waiters {
		if w.conn == c {
			close(w.answer)
			delete(l.waiters, id)
		}
	}
	why := c.why
	drained := l.drained(c)
	if !l.connected(c.from.Main) {
		delete(l.draining, c.from.Main)
	}
	l.mu.Unlock()
	if why == "" && err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, net.ErrClosed) {
		why = err.Error()
	}
	l.emit(Gone{c.from, why})
	if drained {
		l.emit(Drained{From{Main: c.from.Main}})
	}
}

// fromNode is a line from node.
type fromNode struct {
	Hello *struct {
		Thread int `json:"thread"`
	} `json:"hello"`
	Listening *Address `json:"listening"`
	Closed    *Address `json:"closed"`
	Held      string   `json:"held"` // the held address that these two are about; empty: none
	Release   []string `json:"release"`
	Why       string   `json:"why"`
	ID        int64    `json:"id"`
	Pong      bool     `json:"pong"`
	Stats     *Stats   `json:"stats"`
	Drained   bool     `json:"drained"`
	Unheard   bool     `json:"unheard"`
	Ready     bool     `json:"ready"`
}

var errRate = fmt.Errorf("it sent more than %d lines a second", linesRate)

// read gives each line its meaning, until one has none.
func (l *Link) read(c *conn, from io.Reader) error {
	lines := bufio.NewReaderSize(from, 4096)
	left, since := float64(mostLines), time.Now()
	for {
		line, err := readLine(lines)
		if err != nil {
			return err
		}
		now := time.Now()
		left = min(mostLines, left+now.Sub(since).Seconds()*linesRate) - 1
		since = now
		if left < 0 {
			return errRate
		}
		var m fromNode
		if err := json.Unmarshal(line, &m); err != nil {
			return fmt.Errorf("it sent a line that is none of the link's: %w", err)
		}
		if err := l.told(c, &m); err != nil {
			return err
		}
	}
}

// readLine gives the next line; it is valid until the one after it.
func readLine(from *bufio.Reader) ([]byte, error) {
	line, err := from.ReadSlice('\n')
	if err == nil {
		return line, nil
	}
	var whole []byte
	for errors.Is(err, bufio.ErrBufferFull) {
		whole = append(whole, line...)
		if len(whole) > longestLine {
			return nil, fmt.Errorf("it sent a line of more than %d bytes", longestLine)
		}
		line, err = from.ReadSlice('\n')
	}
	return append(whole, line...), err
}

func (l *Link) told(c *conn, m *fromNode) error {
	if m.Hello != nil {
		if c.from.Thread >= 0 || m.Hello.Thread < 0 {
			return errors.New("it did not say once, and truly, who it is")
		}
		l.greet(c, m.Hello.Thread)
	}
	if c.from.Thread < 0 {
		return errors.New("it did not say who it is first")
	}
	if m.Listening != nil {
		if err := l.listening(c, *m.Listening, m.Held); err != nil {
			return err
		}
	}
	if m.Closed != nil {
		l.closes(c, *m.Closed, m.Held)
	}
	if m.Release != nil {
		l.release(c, m)
	}
	if m.Pong {
		l.mu.Lock()
		asked := c.pinged
		c.pinged, c.answered = time.Time{}, true
		l.mu.Unlock()
		if !asked.IsZero() {
			l.emit(Pong{c.from, time.Since(asked)})
		}
	}
	if m.ID != 0 && m.Release == nil {
		l.answers(c, m.ID, m.Stats)
	}
	if m.Drained {
		l.mu.Lock()
		drained := l.drained(c)
		l.mu.Unlock()
		if drained {
			l.emit(Drained{From{Main: c.from.Main}})
		}
	}
	if m.Ready {
		l.emit(AppReady{c.from})
	}
	if m.Unheard {
		l.emit(Unheard{c.from})
	}
	return nil
}

// answers takes the answer to a question for Stats; nil: there are none.
func (l *Link) answers(c *conn, id int64, s *Stats) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.asked = false
	if w, waits := l.waiters[id]; waits && w.conn == c {
		w.answer <- s
		delete(l.waiters, id)
	}
}

// listening: a server of a thread listens.
func (l *Link) listening(c *conn, asked Address, name string) error {
	at, held, ok := l.address(asked, name)
	l.mu.Lock()
	ok = ok && len(c.held)+len(c.unheld) < mostPlaces
	if ok {
		c.answered = true // its event loop has run
		if held {
			c.held[name]++
		} else {
			c.unheld[at]++
		}
	}
	l.mu.Unlock()
	if !ok {
		return fmt.Errorf("it listens where nobody can, or on more than %d addresses", mostPlaces)
	}
	l.emit(Listening{c.from, at, held})
	return nil
}

// closes: a server of a thread that listened does not any more.
func (l *Link) closes(c *conn, asked Address, name string) {
	at, held, _ := l.address(asked, name)
	l.mu.Lock()
	known := held && less(c.held, name) || !held && less(c.unheld, at)
	l.mu.Unlock()
	if known {
		l.emit(Closed{c.from, at, held})
	}
}

// less takes one away, and tells whether there was one.
func less[K comparable](counts map[K]int, key K) bool {
	n := counts[key]
	if n <= 1 {
		delete(counts, key)
	} else {
		counts[key] = n - 1
	}
	return n > 0
}

// greet takes a thread in.
func (l *Link) greet(c *conn, thread int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.from.Thread = thread
	d := l.draining[c.from.Main]
	if d == nil {
		return
	}
	if c.send(d.line) && !d.told {
		d.waiting[c] = struct{}{}
	}
	if d.stopping {
		c.send(stoppingLine)
	}
}

// address is the held one of that name, else what the app asked for; ok is false
// where nobody can listen.
func (l *Link) address(asked Address, name string) (a Address, held, ok bool) {
	if l.options.Sockets != nil {
		for _, h := range l.options.Sockets.Addresses() {
			if h.String() == name {
				return h, true, true
			}
		}
	}
	a, ok = asked.sound()
	return a, false, ok
}

// release gives up what a process can't use, unless another one is using it: then
// it finds the address in use, as it would without evermore.
func (l *Link) release(c *conn, m *fromNode) {
	for _, name := range m.Release {
		if a, held, _ := l.address(Address{}, name); held && !l.used(name) && l.options.Sockets.Release(a) {
			l.emit(Released{c.from, a, short(m.Why)})
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.send(fmt.Sprintf(`{"released":%d}`, m.ID))
}

func (l *Link) used(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if c.held[name] > 0 {
			return true
		}
	}
	return false
}

// Ping asks each process of a run for a Pong that does not owe one already. It
// gives the one that has owed it for longest, of those that have answered before,
// and for how long; 0: none.
func (l *Link) Ping(main int) (pid int, silent time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for c := range l.of(main) {
		switch {
		case c.from.Thread != 0:
		case c.pinged.IsZero():
			c.pinged = now
			c.send(`{"ping":true}`)
		case c.answered && now.Sub(c.pinged) > silent:
			pid, silent = c.from.PID, now.Sub(c.pinged)
		}
	}
	return pid, silent
}

// Forgive counts the silence of a run's processes from now on: for when it was
// evermore that could not read.
func (l *Link) Forgive(main int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for c := range l.of(main) {
		if !c.pinged.IsZero() {
			c.pinged = now
		}
	}
}

// Drain has the processes of a run accept no further connection on held addresses
// and end those that they have: with the next answer, or after the pause when they
// idle. An answer that goes on, such as server-sent events, and an upgraded
// connection, such as a WebSocket, are left alone. Drained tells when none but
// upgraded ones are left. The processes do not end by themselves: Stopping has to
// follow. It gives how many have still to answer: with 0 there is nothing to wait for.
func (l *Link) Drain(main int, pause time.Duration) (waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := l.draining[main]; d != nil {
		return len(d.waiting)
	}
	d := &drain{line: fmt.Sprintf(`{"drain":%d}`, pause.Milliseconds()), waiting: map[*conn]struct{}{}}
	for c := range l.of(main) {
		if c.send(d.line) {
			d.waiting[c] = struct{}{}
		}
	}
	if len(d.waiting) > 0 {
		l.draining[main] = d
	}
	return len(d.waiting)
}

// Stopping tells the processes of a run that they are sent the stop signal. Drain
// keeps them from ending before it, for the sake of the app's own handler.
func (l *Link) Stopping(main int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := l.draining[main]; d != nil {
		d.stopping = true
	}
	for c := range l.of(main) {
		c.send(stoppingLine)
	}
}

// drained notes that a connection is done, and tells whether it was the last one
// that Drain waits for. The caller holds the mutex.
func (l *Link) drained(c *conn) bool {
	d := l.draining[c.from.Main]
	if d == nil || d.told {
		return false
	}
	delete(d.waiting, c)
	d.told = len(d.waiting) == 0
	return d.told
}

// Shutdown emits pm2's message "shutdown" in the main process of a run. Where the
// app does not listen for it, Unheard follows. It tells whether there is a process
// to be told.
func (l *Link) Shutdown(main int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.of(main) {
		if c.from.PID == main && c.from.Thread == 0 {
			return c.send(`{"shutdown":true}`)
		}
	}
	return false
}

// ErrNoAnswer says that no process of a run can be asked.
var ErrNoAnswer = errors.New("no process of the app speaks to evermore")

// Stats asks the process of a run that listens, else the main one. One that has not
// answered the last time is not asked again until it has: it would not read that.
func (l *Link) Stats(ctx context.Context, main int) (*Stats, error) {
	l.mu.Lock()
	var chosen *conn
	for c := range l.of(main) {
		if c.from.Thread == 0 && (chosen == nil || c.rank() > chosen.rank()) {
			chosen = c
		}
	}
	l.last++
	id, answer := l.last, make(chan *Stats, 1)
	sent := chosen != nil && !chosen.asked && chosen.send(fmt.Sprintf(`{"stats":%d}`, id))
	if sent {
		chosen.asked = true
		l.waiters[id] = waiter{chosen, answer}
	}
	l.mu.Unlock()
	if !sent {
		return nil, ErrNoAnswer
	}
	defer func() {
		l.mu.Lock()
		delete(l.waiters, id)
		l.mu.Unlock()
	}()
	select {
	case s := <-answer:
		if s == nil {
			return nil, ErrNoAnswer
		}
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// rank says how likely a process is the app itself and no wrapper.
func (c *conn) rank() (rank int) {
	if len(c.held) > 0 {
		rank += 2
	}
	if c.from.PID == c.from.Main {
		rank++
	}
	return rank
}

// of gives the connections of a run that have said who they are. The caller holds
// the mutex.
func (l *Link) of(main int) iter.Seq[*conn] {
	return func(yield func(*conn) bool) {
		for c := range l.conns {
			if c.from.Main == main && c.from.Thread >= 0 && !yield(c) {
				return
			}
		}
	}
}

func (l *Link) connected(main int) bool {
	for range l.of(main) {
		return true
	}
	return false
}

// send writes a line without ever waiting: who does not read loses the line to
// evermore. The caller holds the link's mutex.
func (c *conn) send(line string) bool {
	line += "\n"
	var n int
	var err error
	errW := c.raw.Write(func(fd uintptr) bool {
		n, err = unix.SendmsgN(int(fd), []byte(line), nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	if errW == nil && err == nil && n == len(line) {
		return true
	}
	if c.why == "" && err == unix.EAGAIN {
		c.why = "it does not read what it is sent"
	}
	c.net.Close()
	return false
}
