package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"evermore/signals"
)

// TestSoak has evermore, as PID 1, live through everything at once: crashes of
// every kind, starts that fail, storms of signals from several senders, orphans
// by the thousand, leftovers, and HTTP clients that scrape, probe, stall and
// reset. In the end nothing has leaked, no zombie is left, and evermore's
// counters equal what those have counted who caused it all.
//
// It takes 20 seconds; EVERMORE_SOAK=10m makes it ten minutes (go test needs
// -timeout then). EVERMORE_SOAK_STATIC=1 takes the binary as it is shipped in
// place of the one with the race detector.
func TestSoak(t *testing.T) {
	duration := 20 * time.Second
	if text := os.Getenv("EVERMORE_SOAK"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatalf("EVERMORE_SOAK: %v", err)
		}
	}
	needs(t, "node", "sleep")
	s := newSoak(t)
	s.awaitApp()
	s.scrape()
	time.Sleep(time.Second) // what a scrape took is given back in half a second
	before := s.mustMeasure()
	t.Logf("at the start: %s", before)

	end := time.Now().Add(duration)
	stopLoad := s.load(duration)
	lives := 0
	for i := 0; !t.Failed() && (i%len(deaths) != 0 || time.Now().Before(end)); i++ {
		s.live(deaths[i%len(deaths)])
		lives++
	}
	stopLoad()
	t.Logf("%d lives, %d orphans, %d scrapes, %d probes, %d resets, %d stalls", lives, s.orphans.Load(), s.scrapes.Load(), s.probes.Load(), s.resets.Load(), s.stalls.Load())
	s.checkGrowth(before, duration)
	s.checkZombies()
	s.checkCounters()
	s.stop()
	s.checkOutput()
}

// death is how a life of the app ends.
type death struct {
	kind string // of app, see app.c; "node" is the script for it
	how  string // exit, abort, kill (by SIGKILL), signal (that evermore forwards)
	code int
	left int // processes that are left behind
	// stubborn has them ignore SIGTERM.
	stubborn bool
	// missing has no app there for some starts.
	missing bool
}

// deaths begin and end with an app that counts.
var deaths = []death{
	{kind: "counts", how: "exit", code: 7, left: 5},
	{kind: "node", how: "kill"},
	{kind: "counts", how: "abort", left: 2},
	{kind: "plain", how: "signal"},
	{kind: "counts", how: "kill"},
	{kind: "node", how: "exit", code: 5, left: 3},
	{kind: "counts", how: "exit", code: 8, missing: true},
	{kind: "counts", how: "exit", left: 4, stubborn: true},
	{kind: "plain", how: "kill"},
	{kind: "node", how: "kill"},
	{kind: "counts", how: "kill"},
}

// pingPong is a signal that is sent when the one before has arrived: then even a
// standard one, of which the kernel keeps only one, is counted exactly.
const pingPong = unix.SIGUSR2

// realTime are queued by the kernel: as many arrive as were sent.
var realTime = []syscall.Signal{35, 40, 50, 64}

// standard may merge. WINCH and CONT harm no app in any moment of its life: they
// come all the time.
var (
	standard = []syscall.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGALRM, unix.SIGSTKFLT, unix.SIGPROF, unix.SIGIO, unix.SIGPWR}
	harmless = []syscall.Signal{unix.SIGWINCH, unix.SIGCONT}
)

type soak struct {
	t        *testing.T
	dir      string
	app      string // the path of the app's program
	tool     string // the same program, for what is no life of the app: the app is missing at times
	evermore *process
	address  string
	socket   string // tells the goroutines

	lives   int            // of the app so far
	exits   map[string]int // by `code="7",reason="exit"`
	sent    [65]atomic.Uint64
	orphans atomic.Int64 // made, leftovers too
	reaped  atomic.Int64 // of them, as far as it is known

	scrapes, probes, resets, stalls atomic.Int64
	measured                        []resources // ten times under load

	log    *logReader
	output *outputReader
}

func newSoak(t *testing.T) *soak {
	where := pid1
	if os.Geteuid() != 0 {
		where = unprivileged
	}
	where.need(t)
	dir := t.TempDir()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	s := &soak{
		t: t, dir: dir, app: filepath.Join(dir, "app"), tool: filepath.Join(dir, "tool"), socket: filepath.Join(dir, "goroutines"),
		address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), exits: make(map[string]int),
	}
	s.must(exec.Command("cc", "-O1", "-Wall", "-o", s.app, "testdata/soak/app.c"))
	if err := os.Link(s.app, s.tool); err != nil {
		t.Fatal(err)
	}
	evermore := s.build()
	s.write("received", string(make([]byte, 65*8)))
	s.write("starts", "")
	s.write("ready", "")
	s.next(deaths[0])

	// Its output is not kept: it is checked as it comes.
	for _, name := range []string{"soak.out", "soak.err"} {
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.output = readOutput(filepath.Join(dir, "soak.out"))
	s.log = readLog(filepath.Join(dir, "soak.err"))
	env := append(os.Environ(), "SOAK_GOROUTINES="+s.socket)
	s.evermore = launch(t, where, dir, filepath.Join(dir, "soak"), env, evermore,
		"--http", s.address, "--log-format", "json", "-o", filepath.Join(dir, "app.log"),
		"--restart", "always", "--max-restarts", "0", "--min-uptime", "1ms",
		"--spin-sleep-time", "20ms", "--spin-sleep-max", "100ms", "--kill-timeout", "1m", "--grace", "2m",
		"--", s.app, "run", dir, "node")
	return s
}

// build builds evermore with testdata/soak/goroutines.go.
func (s *soak) build() string {
	root, err := filepath.Abs("..")
	if err != nil {
		s.t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(root, "goroutines.go"): filepath.Join(root, "e2e", "testdata", "soak", "goroutines.go"),
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("overlay.json", string(overlay))
	binary := filepath.Join(s.dir, "evermore")
	args := []string{"build", "-overlay", filepath.Join(s.dir, "overlay.json"), "-o", binary}
	env := append(os.Environ(), "CGO_ENABLED=1")
	if os.Getenv("EVERMORE_SOAK_STATIC") != "" {
		env = append(env, "CGO_ENABLED=0")
		args = append(args, "-trimpath", "-ldflags=-s -w")
	} else {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "evermore")...)
	cmd.Env = env
	s.must(cmd)
	return binary
}

// live is one life of the app: a storm of signals, and its death.
func (s *soak) live(d death) {
	s.storm(d.kind)
	s.next(deaths[s.lives%len(deaths)])
	s.orphans.Add(int64(d.left))
	failed := s.failedStarts()
	if d.missing {
		s.rename(s.app, s.app+".away")
	}
	switch d.how {
	case "kill":
		s.kill()
		s.died("signal", 128+int(unix.SIGKILL))
	case "signal":
		s.send(unix.SIGALRM)
		s.died("request", 128+int(unix.SIGALRM))
	case "abort":
		s.write("order", fmt.Sprintf("%d abort 0", d.left))
		s.died("signal", 128+int(unix.SIGABRT))
	default:
		how := "exit"
		if d.stubborn {
			how = "stubborn"
		}
		s.write("order", fmt.Sprintf("%d %s %d", d.left, how, d.code))
		s.died("exit", d.code)
	}
	if d.missing {
		s.eventually("starts fail", func() bool { return s.failedStarts() >= failed+3 })
		s.rename(s.app+".away", s.app)
	}
	s.awaitApp()
}

// next says what the next app is.
func (s *soak) next(d death) {
	kind := d.kind
	if kind == "node" {
		var err error
		if kind, err = filepath.Abs("testdata/soak/app.js"); err != nil {
			s.t.Fatal(err)
		}
	}
	s.write("kind", kind)
}

func (s *soak) failedStarts() float64 {
	s.t.Helper()
	return s.scrape()[`evermore_child_exits_total{code="127",reason="spawn",worker="0"}`]
}

func (s *soak) died(reason string, code int) { s.exits[label(reason, code)]++ }

func label(reason string, code int) string { return fmt.Sprintf(`code="%d",reason=%q`, code, reason) }

// awaitApp waits until the next app is ready for signals.
func (s *soak) awaitApp() {
	s.t.Helper()
	s.lives++
	s.eventually(fmt.Sprintf("the app is ready for its life number %d", s.lives), func() bool {
		return len(s.lines("ready")) == s.lives
	})
}

// kill kills the app from outside.
func (s *soak) kill() {
	s.t.Helper()
	ready := s.lines("ready")
	inside, err := strconv.Atoi(ready[len(ready)-1])
	if err != nil {
		s.t.Fatal(err)
	}
	pid := s.evermore.outside(inside)
	if pid == 0 {
		s.t.Fatalf("the app, process %d, is not there", inside)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.t.Fatalf("killing the app: %v", err)
	}
}

// storm has several processes send signals, some from outside and some from
// inside, where evermore sees who they are; it returns when all have arrived.
func (s *soak) storm(kind string) {
	s.t.Helper()
	var storm []syscall.Signal
	switch kind {
	case "counts":
		storm = slices.Concat(realTime, standard)
	case "node":
		storm = []syscall.Signal{unix.SIGUSR1, unix.SIGHUP} // that it has handlers for
	default:
		storm = harmless
	}
	for range 3 {
		s.eventually("evermore has counted what it has forwarded", s.hasRoom)
		var senders sync.WaitGroup
		for i := range 4 {
			senders.Go(func() { s.sendMany(i%2 == 0, 12, 50*i, storm...) })
		}
		if kind == "counts" {
			for range 5 {
				s.send(pingPong)
				s.eventually("a signal arrives", func() bool { return s.received()[pingPong] == s.sent[pingPong].Load() })
			}
		}
		senders.Wait()
		if kind == "counts" {
			for _, n := range realTime {
				sent := s.sent[n].Load()
				s.eventually(fmt.Sprintf("%d %s arrive", sent, signals.Name(n)), func() bool { return s.received()[n] >= sent })
				s.eventually(fmt.Sprintf("%d %s are counted", sent, signals.Name(n)), func() bool { return forwarded(s.scrape(), n) >= sent })
			}
		}
	}
}

// hasRoom tells whether evermore has counted most of the signals that it has
// forwarded. A pipe holds the reports of 2048 that are still to be counted; those
// that come when it is full are forwarded and not counted.
func (s *soak) hasRoom() bool {
	const siginfo, most = 128, 512
	waiting := 0
	for _, pipe := range s.pipes() {
		// A pipe that is opened by its link is the same pipe.
		fd, err := unix.Open(pipe, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		bytes, _ := unix.IoctlGetInt(fd, unix.TIOCINQ)
		unix.Close(fd)
		waiting = max(waiting, bytes/siginfo)
	}
	return waiting <= most
}

// pipes gives the links of evermore's own pipes.
func (s *soak) pipes() []string {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.evermore.pid()))
	return slices.DeleteFunc(links, func(link string) bool {
		file, _ := os.Readlink(link)
		return !strings.HasPrefix(file, "pipe:")
	})
}

// send sends evermore a signal.
func (s *soak) send(n syscall.Signal) {
	s.sent[n].Add(1)
	if err := s.evermore.signal(n); err != nil {
		s.t.Errorf("sending %s: %v", signals.Name(n), err)
	}
}

// sendMany has a process send each of the signals so many times.
func (s *soak) sendMany(inside bool, times, pause int, all ...syscall.Signal) {
	args := []string{"send", strconv.Itoa(s.evermore.pid()), strconv.Itoa(times), strconv.Itoa(pause)}
	for _, n := range all {
		// Before they are sent: a death by one of them is no surprise.
		s.sent[n].Add(uint64(times))
		args = append(args, strconv.Itoa(int(n)))
	}
	if inside {
		args[1] = "1"
		s.inside(args...)
	} else {
		s.must(exec.Command(s.tool, args...))
	}
}

// inside runs the tool beside evermore, as "kubectl exec" does.
func (s *soak) inside(args ...string) {
	s.must(s.evermore.enter(s.t.Context(), s.dir, os.Environ(), append([]string{s.tool}, args...)...))
}

// load does, until it is told to stop, what needs no order, and measures.
func (s *soak) load(duration time.Duration) (stop func()) {
	over := make(chan struct{})
	var load sync.WaitGroup
	stop = sync.OnceFunc(func() {
		close(over)
		load.Wait()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	s.t.Cleanup(stop)
	load.Go(func() { s.measureForTime(duration, over) })
	repeat := func(times int, do func()) {
		for range times {
			load.Go(func() {
				for !s.t.Failed() {
					select {
					case <-over:
						return
					default:
						do()
					}
				}
			})
		}
	}
	repeat(2, func() {
		const many, most = 200, 4000
		// A machine has few pids, and others need some.
		if s.orphans.Load()-s.reaped.Load() > most {
			time.Sleep(10 * time.Millisecond)
			return
		}
		s.orphans.Add(many)
		s.inside("orphans", strconv.Itoa(many))
	})
	for _, inside := range []bool{true, false} {
		repeat(1, func() {
			if !s.hasRoom() {
				time.Sleep(10 * time.Millisecond)
				return
			}
			s.sendMany(inside, 125, 8000, harmless...)
		})
	}
	repeat(1, s.scrapeForever(true))
	repeat(1, s.scrapeForever(false))
	repeat(2, s.probe)
	repeat(2, s.reset)
	// More than there may be connections.
	repeat(70, func() { s.stall(over) })
	return stop
}

// scrapeForever scrapes as Prometheus does: no counter ever falls.
func (s *soak) scrapeForever(keepAlive bool) func() {
	client := &http.Client{Timeout: patience} // by http.DefaultTransport
	if !keepAlive {
		client.Transport = &http.Transport{DisableKeepAlives: true}
	}
	var last map[string]float64
	return func() {
		var series map[string]float64
		s.ask(func() (err error) {
			series, err = scrape(client, s.address)
			return err
		})
		s.scrapes.Add(1)
		s.reaped.Store(int64(series["evermore_reaped_orphans_total"]))
		for name, value := range series {
			family, _, _ := strings.Cut(name, "{")
			// evermore_child_process_* is about one process after another.
			if strings.HasPrefix(family, "evermore_child_process_") || !strings.HasSuffix(family, "_total") && !strings.HasSuffix(family, "_count") {
				continue
			}
			if before, ok := last[name]; ok && value < before {
				s.t.Errorf("%s fell from %v to %v", name, before, value)
			}
		}
		last = series
		time.Sleep(100 * time.Millisecond)
	}
}

// probe asks as a kubelet does: evermore is alive, whatever the app is.
func (s *soak) probe() {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	for _, path := range []string{"/livez", "/readyz"} {
		s.ask(func() error {
			response, err := client.Get("http://" + s.address + path)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err == nil && path == "/livez" && response.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: %s", response.Status, body)
			}
			return err
		})
		s.probes.Add(1)
	}
	time.Sleep(50 * time.Millisecond)
}

// ask asks up to three times, as a kubelet does. There are more clients than
// evermore has connections for: on a busy machine each may become the oldest and
// be cut off.
func (s *soak) ask(do func() error) {
	var err error
	for range 3 {
		if err = do(); err == nil {
			return
		}
	}
	stacks, _ := s.goroutines()
	s.t.Errorf("no answer: %v; evermore does\n%s", err, stacks)
}

// reset asks, and resets the connection while the answer comes.
func (s *soak) reset() {
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Errorf("connecting: %v", err)
		return
	}
	fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: evermore\r\n\r\n")
	_, _ = io.CopyN(io.Discard, conn, rand.Int64N(2000))
	_ = conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
	s.resets.Add(1)
	time.Sleep(5 * time.Millisecond)
}

// stall begins to ask, or asks and does not read, until it is cut off.
func (s *soak) stall(over <-chan struct{}) {
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Errorf("connecting: %v", err)
		return
	}
	defer conn.Close()
	done := make(chan struct{})
	if rand.IntN(16) > 0 {
		fmt.Fprintf(conn, "GET /metr")
		go func() {
			defer close(done)
			_, _ = io.Copy(io.Discard, conn)
		}()
	} else {
		_ = conn.(*net.TCPConn).SetReadBuffer(4096)
		go func() {
			defer close(done)
			// More than the buffers take.
			for range 100 {
				if _, err := fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: evermore\r\n\r\n"); err != nil {
					return
				}
			}
			<-over
		}()
	}
	select {
	case <-done:
		s.stalls.Add(1)
	case <-over:
	}
	select {
	case <-time.After(5 * time.Second):
	case <-over:
	}
}

// resources is what evermore holds.
type resources struct {
	descriptors, goroutines, threads int

	rss   int      // KiB
	files []string // what the descriptors are
}

func (r resources) String() string {
	return fmt.Sprintf("%d descriptors, %d goroutines, %d threads, %.1f MiB", r.descriptors, r.goroutines, r.threads, float64(r.rss)/1024)
}

func (s *soak) measure() (resources, error) {
	var r resources
	goroutines, err := s.goroutines()
	if err != nil {
		return r, err
	}
	r.goroutines = strings.Count("\n\n"+goroutines, "\n\ngoroutine ")
	proc := fmt.Sprintf("/proc/%d/", s.evermore.pid())
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		return r, err
	}
	r.descriptors = len(fds)
	for _, fd := range fds {
		// What is gone by now has no name.
		file, _ := os.Readlink(proc + "fd/" + fd.Name())
		r.files = append(r.files, fd.Name()+" "+file)
	}
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return r, err
	}
	for line := range strings.Lines(string(status)) {
		switch name, value, _ := strings.Cut(line, ":"); name {
		case "Threads":
			r.threads, _ = strconv.Atoi(strings.TrimSpace(value))
		case "VmRSS":
			r.rss, _ = strconv.Atoi(strings.Fields(value)[0])
		}
	}
	return r, nil
}

func (s *soak) mustMeasure() resources {
	s.t.Helper()
	r, err := s.measure()
	if err != nil {
		s.t.Fatalf("measuring evermore: %v", err)
	}
	return r
}

// goroutines gives the stacks of evermore's goroutines.
func (s *soak) goroutines() (string, error) {
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	return string(text), err
}

// measureForTime measures ten times.
func (s *soak) measureForTime(duration time.Duration, over <-chan struct{}) {
	start := time.Now()
	for range 10 {
		select {
		case <-time.After(duration / 10):
		case <-over:
			return
		}
		r, err := s.measure()
		if err != nil {
			s.t.Errorf("measuring evermore: %v", err)
			return
		}
		s.measured = append(s.measured, r)
		s.t.Logf("after %s: %s", time.Since(start).Round(time.Second), r)
	}
}

// checkGrowth: what the load took was given back.
func (s *soak) checkGrowth(before resources, duration time.Duration) {
	s.t.Helper()
	var after resources
	if !poll(func() bool {
		after = s.mustMeasure()
		return after.descriptors <= before.descriptors && after.goroutines <= before.goroutines
	}) {
		stacks, _ := s.goroutines()
		s.t.Errorf("not given back: there were\n%s\nand are\n%s\nwith the goroutines\n%s", strings.Join(before.files, "\n"), strings.Join(after.files, "\n"), stacks)
	}
	s.t.Logf("at the end: %s", after)
	// Threads and memory come as they are needed, and stay up to a bound that a
	// short soak may not see.
	if most := before.threads + 8; after.threads > most {
		s.t.Errorf("%d threads have become %d", before.threads, after.threads)
	}
	if duration >= 2*time.Minute && len(s.measured) > 2 && after.rss > s.measured[2].rss*3/2 {
		s.t.Errorf("%d KiB of memory have become %d", s.measured[2].rss, after.rss)
	}
}

// checkZombies: none in evermore's pid namespace, once all has been reaped.
func (s *soak) checkZombies() {
	s.t.Helper()
	var zombies []int
	s.eventually("no zombie is left", func() bool {
		zombies = zombies[:0]
		for _, pid := range s.namespace() {
			if stateOf(pid) == "Z" {
				zombies = append(zombies, pid)
			}
		}
		return len(zombies) == 0
	})
}

// namespace gives the processes in evermore's pid namespace: they are below it,
// or came in from outside and have their parent there.
func (s *soak) namespace() []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err == nil && (pid == s.evermore.pid() || isBelow(pid, s.evermore.pid())) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// checkCounters: evermore has counted what was done to it.
func (s *soak) checkCounters() {
	s.t.Helper()
	received := s.received()
	var series map[string]float64
	equal := func(what string, got, want float64) {
		s.t.Helper()
		if got != want {
			s.t.Errorf("%s: %v, not %v", what, got, want)
		}
	}

	// What was reported last may still be on its way.
	s.eventually("all orphans are counted", func() bool {
		series = s.scrape()
		return total(series, "evermore_reaped_orphans_total") >= float64(s.orphans.Load())
	})
	equal("orphans", total(series, "evermore_reaped_orphans_total"), float64(s.orphans.Load()))

	starts := len(s.lines("starts"))
	equal("lives", float64(starts), float64(s.lives))
	equal("starts", total(series, "evermore_child_starts_total"), float64(starts))
	failed := total(series, "evermore_child_exits_total", `reason="spawn"`)
	equal("starts that failed by code 127", total(series, "evermore_child_exits_total", `reason="spawn"`, `code="127"`), failed)
	equal("restarts", total(series, "evermore_child_restarts_total"), float64(starts-1)+failed)
	exits := maps.Clone(s.exits)
	exits[label("spawn", 127)] = int(failed)
	byReason := make(map[string]float64)
	for name, value := range series {
		labels, ok := strings.CutPrefix(name, "evermore_child_exits_total{")
		if !ok {
			continue
		}
		labels, _, _ = strings.Cut(labels, `,worker=`)
		equal("exits with "+labels, value, float64(exits[labels]))
		delete(exits, labels)
		_, reason, _ := strings.Cut(labels, ",")
		byReason[reason] += value
	}
	for labels, n := range exits {
		if n != 0 {
			s.t.Errorf("exits with %s: not counted, not %d", labels, n)
		}
	}
	for reason, n := range byReason {
		equal("restarts with "+reason, total(series, "evermore_child_restarts_total", reason), n)
	}

	for _, n := range append(slices.Clone(realTime), pingPong) {
		equal(signals.Name(n)+" received", float64(received[n]), float64(s.sent[n].Load()))
		equal(signals.Name(n)+" forwarded", float64(forwarded(series, n)), float64(s.sent[n].Load()))
	}
	for _, n := range slices.Concat(standard, harmless) {
		byNode, _ := os.ReadFile(filepath.Join(s.dir, "node-"+signals.Name(n)))
		least, most, got := received[n]+uint64(len(byNode)), s.sent[n].Load(), forwarded(series, n)
		if got < least || got > most {
			s.t.Errorf("%s: %d were sent, %d forwarded, %d received", signals.Name(n), most, got, least)
		}
	}

	equal("errors in writing the app's output", total(series, "evermore_log_write_errors_total"), 0)
	s.eventually("the bytes of the app's output are counted", func() bool {
		least := s.logged()
		series = s.scrape()
		counted := int64(total(series, "evermore_log_bytes_total", `stream="stdout"`))
		return least <= counted && counted <= s.logged()
	})
}

// stop ends it all: the exit code is the app's, and nothing is left.
func (s *soak) stop() {
	s.t.Helper()
	all := s.namespace()
	if err := s.evermore.signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	code, err := s.evermore.wait()
	if err != nil {
		s.t.Fatal(err)
	}
	if code != 43 {
		s.t.Errorf("exit code %d, not 43", code)
	}
	for _, pid := range all {
		eventually(s.t, fmt.Sprintf("process %d has ended", pid), func() bool { return stateOf(pid) == "" })
	}
}

// logged is how much of the app's output is in its log.
func (s *soak) logged() int64 {
	s.t.Helper()
	info, err := os.Stat(filepath.Join(s.dir, "app.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return info.Size()
}

// checkOutput: nothing of the app's output and no line of evermore's was lost or
// broken, neither by a crash nor under load.
func (s *soak) checkOutput() {
	s.t.Helper()
	if through := s.output.size(); through != s.logged() {
		s.t.Errorf("%d bytes of the app's output went through, %d into the log", through, s.logged())
	}
	f, err := os.Open(filepath.Join(s.dir, "app.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	last := make(map[int]int) // by pid
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var pid, n int
		if _, err := fmt.Sscanf(lines.Text(), "app %d line %d", &pid, &n); err != nil {
			s.t.Fatalf("a broken line of the app: %q", lines.Text())
		}
		if n != 0 && n != last[pid]+1 {
			s.t.Fatalf("line %d of app %d came after line %d", n, pid, last[pid])
		}
		last[pid] = n
	}
	if broken := s.log.result(); broken != "" {
		s.t.Errorf("a broken line of evermore: %q", broken)
	}
}

// received is what the apps that count have received, by signal.
func (s *soak) received() [65]uint64 {
	s.t.Helper()
	var received [65]uint64
	data, err := os.ReadFile(filepath.Join(s.dir, "received"))
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := binary.Decode(data, binary.NativeEndian, &received); err != nil {
		s.t.Fatal(err)
	}
	return received
}

// total adds up the series of a family that have the labels.
func total(series map[string]float64, family string, labels ...string) float64 {
	sum := 0.0
	for name, value := range series {
		rest, ok := strings.CutPrefix(name, family+"{")
		if family == name || ok && !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			sum += value
		}
	}
	return sum
}

func forwarded(series map[string]float64, n syscall.Signal) uint64 {
	return uint64(total(series, "evermore_signals_forwarded_total", fmt.Sprintf("signal=%q", signals.Name(n))))
}

func (s *soak) scrape() map[string]float64 {
	s.t.Helper()
	series, err := scrape(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}, s.address)
	if err != nil {
		s.t.Fatalf("scraping: %v", err)
	}
	return series
}

// scrape gives each series by its name with its labels.
func scrape(client *http.Client, address string) (map[string]float64, error) {
	response, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	series := make(map[string]float64)
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		at := strings.LastIndexByte(lines.Text(), ' ')
		if at < 0 {
			return nil, fmt.Errorf("cannot read %q", lines.Text())
		}
		value, err := strconv.ParseFloat(lines.Text()[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("cannot read %q: %w", lines.Text(), err)
		}
		series[lines.Text()[:at]] = value
	}
	return series, lines.Err()
}

func (s *soak) must(cmd *exec.Cmd) {
	s.t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Errorf("%s: %v\n%s", cmd, err, out)
	}
}

func (s *soak) eventually(what string, ok func() bool) {
	s.t.Helper()
	if !s.evermore.running() {
		s.t.Fatalf("evermore has ended; its last lines:\n%s", s.log.last())
	}
	if !poll(ok) {
		stacks, _ := s.goroutines()
		s.t.Fatalf("waited in vain: %s; evermore's last lines:\n%s\nand its goroutines:\n%s\n%v", what, s.log.last(), stacks, s.scrape())
	}
}

// write replaces a file of the app at once.
func (s *soak) write(name, text string) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.rename(path+".new", path)
}

func (s *soak) rename(from, to string) {
	s.t.Helper()
	if err := os.Rename(from, to); err != nil {
		s.t.Fatal(err)
	}
}

func (s *soak) lines(name string) []string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// logReader reads what evermore says, as it comes.
type logReader struct {
	done chan struct{}

	mu     sync.Mutex
	recent []string
	broken string
}

func readLog(fifo string) *logReader {
	r := &logReader{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		f, err := os.Open(fifo)
		if err != nil {
			r.broken = err.Error()
			return
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			r.mu.Lock()
			if !json.Valid(lines.Bytes()) {
				r.broken = lines.Text()
			}
			if r.recent = append(r.recent, lines.Text()); len(r.recent) > 20 {
				r.recent = r.recent[1:]
			}
			r.mu.Unlock()
		}
	}()
	return r
}

func (r *logReader) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.recent, "\n")
}

// result gives, after the end, a line that is no JSON; empty: there is none.
func (r *logReader) result() (broken string) {
	<-r.done
	return r.broken
}

// outputReader counts what comes.
type outputReader struct {
	done  chan struct{}
	bytes int64
}

func readOutput(fifo string) *outputReader {
	r := &outputReader{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		if f, err := os.Open(fifo); err == nil {
			defer f.Close()
			r.bytes, _ = io.Copy(io.Discard, f)
		}
	}()
	return r
}

// size is, after the end, how much there was.
func (r *outputReader) size() int64 {
	<-r.done
	return r.bytes
}
