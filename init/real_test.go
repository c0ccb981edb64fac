package pid1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"evermore/reaper"
	"evermore/signals"
)

// TestMain also plays the app that is supervised: it does what the lines of
// PID1_TEST_APP say, in order.
func TestMain(m *testing.M) {
	if script := os.Getenv("PID1_TEST_APP"); script != "" {
		for line := range strings.SplitSeq(script, "\n") {
			verb, rest, _ := strings.Cut(line, " ")
			switch verb {
			case "say":
				conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
				if err != nil {
					fmt.Println(err)
					os.Exit(99)
				}
				if _, err := conn.Write([]byte(strings.ReplaceAll(rest, "|", "\n"))); err != nil {
					fmt.Println(err)
					os.Exit(98)
				}
			case "print":
				fmt.Println(os.ExpandEnv(rest))
			case "sleep":
				d, _ := time.ParseDuration(rest)
				time.Sleep(d)
			case "exit":
				code, _ := strconv.Atoi(rest)
				os.Exit(code)
			}
		}
		select {}
	}
	os.Exit(m.Run())
}

// life is an App with real processes.
type life struct {
	*App
	t      *testing.T
	mu     sync.Mutex
	events []Event
	done   chan int
}

func (l *life) Observe(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// await gives the nth event of the kind.
func (l *life) await(k Kind, n int) Event {
	l.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		l.mu.Lock()
		seen := 0
		for _, e := range l.events {
			if e.Kind == k {
				if seen++; seen == n {
					l.mu.Unlock()
					return e
				}
			}
		}
		l.mu.Unlock()
	}
	l.t.Fatalf("waited in vain for event %d, number %d: %+v", k, n, l.events)
	return Event{}
}

func live(t *testing.T, o Options, script string) *life {
	t.Helper()
	r, err := reaper.New()
	if err != nil {
		t.Fatal(err)
	}
	catcher, err := signals.Catch(signals.Options{})
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	o.Command = reaper.Command{
		Argv: []string{"/proc/self/exe"}, Env: append(os.Environ(), "PID1_TEST_APP="+script), Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}, OwnGroup: true,
		EndGroup: o.KillTree,
	}
	if o.StopSignals == 0 {
		o.StopSignals = stopSet
	}
	l := &life{t: t, done: make(chan int, 1)}
	l.App = New(o, &Kernel{Reaper: r}, catcher, l)
	go func() {
		if _, err := l.Start(); err != nil {
			t.Error(err)
		}
		l.done <- l.Run()
	}()
	t.Cleanup(func() {
		l.stopNow()
		catcher.Close()
	})
	return l
}

// stopNow ends the app, whatever it does.
func (l *life) stopNow() int {
	for range 2 {
		select {
		case code := <-l.done:
			l.done <- code
			return code
		default:
			_ = syscall.Kill(os.Getpid(), syscall.SIGINT)
			time.Sleep(50 * time.Millisecond)
		}
	}
	code := <-l.done
	l.done <- code
	return code
}

func TestNotifyReady(t *testing.T) {
	l := live(t, Options{Ready: Readiness{By: ReadyNotify}}, "sleep 100ms\nsay STATUS=warming up\nsay READY=1|STATUS=serving\nsleep 100ms\nsay RELOADING=1\nsay READY=1\nsay STOPPING=1")
	if ok, why := l.CheckReady(t.Context()); ok || why == "" {
		t.Errorf("ready before it says so: %v %q", ok, why)
	}
	l.await(Ready, 1)
	if e := l.await(StatusTold, 1); e.Text != "warming up" {
		t.Errorf("got %+v", e)
	}
	if e := l.await(Unready, 1); e.Text != "it said RELOADING=1" {
		t.Errorf("got %+v", e)
	}
	l.await(Ready, 2)
	if e := l.await(Unready, 2); e.Text != "it said STOPPING=1" {
		t.Errorf("got %+v", e)
	}
	if s := l.Snapshot(); s.Status != "serving" || s.Ready {
		t.Errorf("got %+v", s)
	}
}

// A stranger's word does not count, whatever it says.
func TestNotifyOfStranger(t *testing.T) {
	l := live(t, Options{Ready: Readiness{By: ReadyNotify}}, "print x")
	l.await(Started, 1)
	conn, err := net.Dial("unixgram", l.notify.name)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The test itself is the supervisor, not one of its descendants.
	for _, text := range []string{"READY=1", strings.Repeat("x", 100_000), "", "\x00\xff"} {
		_, _ = conn.Write([]byte(text))
	}
	time.Sleep(100 * time.Millisecond)
	if s := l.Snapshot(); s.Ready {
		t.Error("a stranger made the app ready")
	}
}

func TestWatchdog(t *testing.T) {
	// It keeps the watchdog quiet for longer than its time, then hangs.
	l := live(t, Options{Ready: Readiness{By: ReadyNotify}, Watchdog: 400 * time.Millisecond, KillTimeout: time.Second, Policy: Policy{MaxRuns: 1}},
		"say READY=1\n"+strings.Repeat("say WATCHDOG=1\nsleep 100ms\n", 8)+"sleep 1h")
	e := l.await(Exited, 1)
	if e.Reason != ReasonWatchdog || e.Uptime < 800*time.Millisecond || e.Exit.Signal != syscall.SIGABRT && e.Exit.Code != 2 { // a Go program says 2
		t.Errorf("got %+v", e)
	}
}

func TestWatchdogByTheApp(t *testing.T) {
	for _, word := range []string{"READY=1|WATCHDOG_USEC=200000", "WATCHDOG_USEC=200000|WATCHDOG=1", "WATCHDOG=trigger"} {
		t.Run(word, func(t *testing.T) {
			l := live(t, Options{Ready: Readiness{By: ReadyNotify}, KillTimeout: time.Second, Policy: Policy{MaxRuns: 1}}, "say "+word+"\nsleep 1h")
			if e := l.await(Exited, 1); e.Reason != ReasonWatchdog {
				t.Errorf("got %+v", e)
			}
		})
	}
}

func TestReadyByURL(t *testing.T) {
	var status atomic.Int64
	status.Store(http.StatusServiceUnavailable)
	var asked atomic.Int64
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if s := int(status.Load()); s == http.StatusFound {
			http.Redirect(w, r, "/elsewhere", s)
		} else {
			w.WriteHeader(s)
		}
	}))
	defer app.Close()
	l := live(t, Options{Ready: Readiness{By: ReadyURL, URL: app.URL}}, "sleep 1h")
	l.await(Started, 1)
	for end := time.Now().Add(10 * time.Second); !strings.Contains(l.Snapshot().NotReady, "503"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("got %q", l.Snapshot().NotReady)
		}
	}
	status.Store(http.StatusFound)
	l.await(Ready, 1)

	// Once it is ready nobody asks but who wants to know.
	time.Sleep(50 * time.Millisecond)
	before := asked.Load()
	time.Sleep(300 * time.Millisecond)
	if n := asked.Load(); n != before {
		t.Errorf("asked %d times while idle", n-before)
	}
	if ok, why := l.CheckReady(t.Context()); !ok || why != "" {
		t.Errorf("got %v %q", ok, why)
	}
	status.Store(http.StatusInternalServerError)
	if ok, why := l.CheckReady(t.Context()); ok || !strings.Contains(why, "500") {
		t.Errorf("got %v %q", ok, why)
	}
	l.await(Unready, 1)
	status.Store(http.StatusOK)
	l.await(Ready, 2)
}

// Whoever asks with little time, or of a loop that hangs, gets away in time and
// changes nothing.
func TestCheckReadyIsBounded(t *testing.T) {
	release := make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer app.Close()
	defer close(release)
	hung := New(Options{Ready: Readiness{By: ReadyURL, URL: app.URL}}, nil, nil) // Run is not called: its loop answers nobody
	hung.state, hung.snap.Ready = StateRunning, true
	hung.publish()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if ok, why := hung.CheckReady(ctx); ok || why == "" {
		t.Errorf("got %v %q", ok, why)
	}
	if !hung.Snapshot().Ready {
		t.Error("who stopped waiting made the app unready")
	}
	app2 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	defer app2.Close()
	hung = New(Options{Ready: Readiness{By: ReadyURL, URL: app2.URL}}, nil, nil)
	hung.state, hung.snap.Ready = StateRunning, true
	hung.publish()
	ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if ok, why := hung.CheckReady(ctx); ok || !strings.Contains(why, "500") {
		t.Errorf("got %v %q", ok, why)
	}
}

func TestProbeIsShared(t *testing.T) {
	var asked atomic.Int64
	release := make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		<-release
	}))
	defer app.Close()
	p := prober{url: app.URL}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if ok, why, err := p.get(t.Context()); !ok || err != nil {
				t.Error(why)
			}
		})
	}
	for asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if ok, why, err := p.get(ctx); ok || !errors.Is(err, context.Canceled) || !strings.Contains(why, "not answered in time") {
		t.Errorf("got %v %q %v", ok, why, err)
	}
	time.Sleep(20 * time.Millisecond)
	close(release)
	wg.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("20 questions at a time were asked %d times", n)
	}
	app.Close()
	if ok, why, err := p.get(t.Context()); ok || why == "" || err != nil {
		t.Errorf("got %v %q %v", ok, why, err)
	}
	bad := prober{url: "http://[::1"}
	if ok, why, _ := bad.get(t.Context()); ok || why == "" {
		t.Errorf("got %v %q", ok, why)
	}
}

// A crash, a leftover that left the group and ignores SIGTERM, a restart.
func TestRealCrashWithLeftover(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r, err := reaper.New()
	if err != nil {
		t.Fatal(err)
	}
	catcher, err := signals.Catch(signals.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := &life{t: t, done: make(chan int, 1)}
	l.App = New(Options{
		Command: reaper.Command{
			Argv: []string{"/bin/sh", "-c", `setsid sh -c 'trap "" TERM; echo $$; while :; do sleep 1000; done' & sleep 0.3; exit 5`},
			Env:  os.Environ(), Files: []uintptr{0, in.Fd(), 2}, OwnGroup: true, EndGroup: true,
		},
		Policy: Policy{MaxRuns: 2}, KillTree: true, StopSignals: stopSet,
	}, &Kernel{Reaper: r}, catcher, l)
	go func() {
		if _, err := l.Start(); err != nil {
			t.Error(err)
		}
		l.done <- l.Run()
	}()
	t.Cleanup(func() { l.stopNow(); catcher.Close() })
	lines := bufio.NewScanner(out)
	lines.Scan()
	pid, _ := strconv.Atoi(lines.Text())
	ended := l.await(LeftoversEnding, 1)
	started := l.await(Started, 2)
	if d := started.Time.Sub(ended.Time); d > 3*time.Second {
		t.Errorf("the leftover held up the restart for %s", d)
	}
	if err := syscall.Kill(pid, 0); err == nil {
		t.Error("the leftover lives beside the next run")
	}
	in.Close()
	if code := <-l.done; code != 5 {
		t.Errorf("ended with %d", code)
	} else {
		l.done <- code
	}
	if r.HasChildren() {
		t.Error("children are left")
	}
}

func TestParseNotice(t *testing.T) {
	for text, want := range map[string]notice{
		"READY=1":                           {ready: true},
		"READY=1\nSTATUS=a=b\nMAINPID=7":    {ready: true, hasStatus: true, status: "a=b"},
		"STOPPING=1\n":                      {stopping: true},
		"RELOADING=1\nMONOTONIC_USEC=1":     {reloading: true},
		"WATCHDOG=1":                        {alive: true},
		"WATCHDOG=trigger":                  {trigger: true},
		"WATCHDOG_USEC=1500000":             {watchdog: 1500 * time.Millisecond},
		"STATUS=":                           {hasStatus: true},
		"WATCHDOG_USEC=1\nWATCHDOG_USEC=-1": {watchdog: time.Microsecond},
	} {
		if got, ok := parseNotice(text); !ok || got != want {
			t.Errorf("%q: got %+v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "READY=0", "READY", "ready=1", "WATCHDOG_USEC=x", "WATCHDOG_USEC=99999999999999999999", "BARRIER=1"} {
		if got, ok := parseNotice(text); ok {
			t.Errorf("%q means %+v", text, got)
		}
	}
}

func FuzzParseNotice(f *testing.F) {
	for _, seed := range []string{"READY=1\nSTATUS=x", "WATCHDOG_USEC=1", "=", "\n\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, ok := parseNotice(text); ok && n == (notice{}) || n.watchdog < 0 {
			t.Errorf("%q gives %+v, %v", text, n, ok)
		}
	})
}
