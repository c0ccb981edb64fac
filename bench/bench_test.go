package main

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestQuantile(t *testing.T) {
	s := series{4, 1, 3, 2}
	for _, c := range []struct{ q, want float64 }{{0, 1}, {0.5, 2.5}, {0.75, 3.25}, {1, 4}} {
		if got := s.quantile(c.q); got != c.want {
			t.Errorf("quantile(%v) of %v = %v, want %v", c.q, s, got, c.want)
		}
	}
	if got := (series{7}).median(); got != 7 {
		t.Errorf("median of one sample = %v", got)
	}
}

func TestVerdict(t *testing.T) {
	cases := []struct {
		name            string
		goal            goal
		base, reached   series
		text, met, cell string
	}{
		{"at most a multiple, met", goal{number: 2.5, of: "tini"}, series{2}, series{5}, "≤ 2.5× tini", "yes", "5"},
		{"at most a multiple, missed", goal{number: 2.5, of: "tini"}, series{2}, series{5.1}, "≤ 2.5× tini", "no", "5.10"},
		{"at least a share, met", goal{number: 0.95, of: "raw", atLeast: true}, series{100}, series{95}, "≥ 0.95× raw", "yes", "95"},
		{"at least a share, missed", goal{number: 0.95, of: "raw", atLeast: true}, series{100}, series{94}, "≥ 0.95× raw", "no", "94"},
		{"a number", goal{number: 0}, nil, series{0.05}, "≤ 0", "no", "0.05"},
		{"a missing base", goal{number: 1, of: "tini"}, nil, series{1}, "≤ tini", "-", "1"},
		{"not measured", goal{number: 1, of: "tini"}, series{1}, nil, "≤ tini", "-", "-"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := &lab{samples: map[string]map[string]series{"m": {"evermore": c.reached, c.goal.of: c.base}}}
			r := row{metrics: []string{"m"}, goals: []goal{c.goal}}
			if text, met := l.verdict(r); text != c.text || met != c.met {
				t.Errorf("verdict = %q, %q; want %q, %q", text, met, c.text, c.met)
			}
			if got := l.cell(r, peer{name: "evermore", program: "x"}); got != c.cell {
				t.Errorf("cell = %q, want %q", got, c.cell)
			}
		})
	}
}

func TestVerdictNeedsEveryGoal(t *testing.T) {
	r := row{metrics: []string{"a", "b"}, goals: []goal{{number: 10}, {number: 2}}}
	l := &lab{samples: map[string]map[string]series{"a": {"evermore": {11}}, "b": {"evermore": {1}}}}
	if text, met := l.verdict(r); met != "no" || text != "≤ 10 / ≤ 2" {
		t.Errorf("verdict = %q, %q", text, met)
	}
}

// A goal is met when it is met in all ways in which evermore runs.
func TestVerdictOfEveryWay(t *testing.T) {
	r := row{metrics: []string{"m"}, goals: []goal{{number: 0}}}
	for bad, want := range map[float64]string{0: "yes", 1: "no"} {
		l := &lab{samples: map[string]map[string]series{"m": {"evermore --hold": {0}, "evermore -i 2": {bad}, "forever": {5}}}}
		if text, met := l.verdict(r); met != want || text != "≤ 0" {
			t.Errorf("verdict with %v = %q, %q; want %q", bad, text, met, want)
		}
	}
}

func TestChoose(t *testing.T) {
	chosen, err := choose("size,start")
	if err != nil || len(chosen) != 2 || chosen[0].name != "start" || chosen[1].name != "size" {
		t.Errorf("choose = %v, %v; want start and size, in the table's order", chosen, err)
	}
	if _, err := choose("speed"); err == nil || !strings.Contains(err.Error(), "start") {
		t.Errorf("choosing what there is not: %v", err)
	}
}

// The raw loop is a supervisor that is always there: with it the namespace, the
// clock and the reports are seen to work.
func TestSession(t *testing.T) {
	if _, err := exec.LookPath("cc"); err != nil {
		skip(t, "no C compiler: apt-get install gcc libc6-dev")
	}
	l, err := newLab("no-evermore", "no-modules")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	raw := l.peers[0]

	s, err := l.start(raw, raw.again, "child", "1")
	if errors.Is(err, syscall.EPERM) {
		skip(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer s.end()
	first, err := s.next(began)
	if err != nil {
		t.Fatal(err)
	}
	last, err := s.next(ends)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.next(began)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted([]int64{1, first.Since, first.At, last.At, again.At}) {
		t.Errorf("the times are not in order: launched %d, began %d, ended %d, began %d", first.Since, first.At, last.At, again.At)
	}

	s, err = l.start(raw, raw.once, "child")
	if err != nil {
		t.Fatal(err)
	}
	defer s.end()
	if _, err := s.next(began); err != nil {
		t.Fatal(err)
	}
	pids, err := s.processes()
	if err != nil || len(pids) != 1 || pids[0] != s.pid() {
		t.Errorf("the supervisor's processes are %v, %v; want %d alone", pids, err, s.pid())
	}
	if n, err := s.switches(); err != nil || n == 0 {
		t.Errorf("a supervisor that waited was switched %v times, %v", n, err)
	}
}

// A host runs commands one after the other; what they leave behind is found, and
// ends with it.
func TestHost(t *testing.T) {
	if _, err := exec.LookPath("cc"); err != nil {
		skip(t, "no C compiler: apt-get install gcc libc6-dev")
	}
	l, err := newLab("no-evermore", "no-modules")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	shell := peer{
		name: "shell", client: "echo",
		daemon: func(_ peer, j job) ([]string, error) {
			return append([]string{"sh", "-c", `"$@" & exit`, "sh", "setsid"}, j.command...), nil
		},
	}
	h, err := l.host(shell, "child")
	if errors.Is(err, syscall.EPERM) {
		skip(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer h.end()
	got, err := h.daemon(began)
	if err != nil {
		t.Fatal(err)
	}
	if r := got[returned]; r.Since == 0 || r.At <= r.Since || got[began].At <= r.Since {
		t.Errorf("the times are not in order: %+v", got)
	}
	child, err := h.child(t.Context())
	if err != nil || child == 0 {
		t.Fatalf("the daemon's child is %d, %v", child, err)
	}

	if _, err := h.command("sh", "-c", "exit 3"); err == nil || !strings.Contains(err.Error(), "code 3") {
		t.Errorf("a command that fails: %v", err)
	}
	if _, err := h.command("sh", "-c", "kill -9 $$"); err == nil || !strings.Contains(err.Error(), "code 137") {
		t.Errorf("a command that is killed: %v", err)
	}
	if _, err := h.command("sh", "-c", `[ "$0" = "a b" ] && echo "listed-1 /listed-1.log listed-22 "`, "a b"); err != nil {
		t.Errorf("a command with a space in an argument: %v", err)
	}
	if _, rows, err := h.list(); err != nil || rows != 0 {
		t.Errorf("a list gives what was printed before: %d rows, %v", rows, err)
	}

	h.end()
	if err := syscall.Kill(child, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the daemon's child outlives its host: %v", err)
	}
}

// A row is counted once, whatever else bears its name.
func TestListedName(t *testing.T) {
	table := "data:  uid       logfile\ndata:  listed-1  /listed-1.log 0:0\ndata:  listed-22 /listed-22.log 0:0\n"
	if got := listedName.FindAllString(table, -1); len(got) != 2 {
		t.Errorf("rows %q, want 2", got)
	}
}

// What every peer is told to start a daemon.
func TestDaemonCommands(t *testing.T) {
	j := job{dir: t.TempDir(), command: []string{"/child", "/report"}, name: "bench"}
	p := peer{program: "/bin/forever", client: "/bin/pm2"}
	argv, err := started(p, j)
	if want := "/bin/forever start --uid bench -c /child /report"; err != nil || strings.Join(argv, " ") != want {
		t.Errorf("got %q, %v; want %q", argv, err, want)
	}
	j.log, j.file, j.err = "/log", "/out", "/err"
	argv, err = started(p, j)
	if want := "/bin/forever start --uid bench -l /log -o /out -e /err -c /child /report"; err != nil || strings.Join(argv, " ") != want {
		t.Errorf("got %q, %v; want %q", argv, err, want)
	}
	argv, err = pm2Started(p, j)
	if err != nil || len(argv) != 3 || argv[0] != "/bin/pm2" {
		t.Fatalf("got %q, %v", argv, err)
	}
	text, err := os.ReadFile(argv[2])
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"name":"bench"`, `"out_file":"/out"`, `"error_file":"/err"`, `"log_file":"/log"`} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s has no %s", text, part)
		}
	}
}

// What every peer is told to keep a server up.
func TestAppCommands(t *testing.T) {
	j := job{dir: t.TempDir(), command: []string{"node", "/server.js"}, name: "bench", port: "3000"}
	const options = " start --uid bench --min-uptime 1 --spin-sleep-time 1"
	p := peer{program: "/bin/x", client: "/bin/pm2"}
	for _, c := range []struct {
		as   how
		want string
	}{
		{foreverApp, "/bin/x start --uid bench --minUptime 1 --spinSleepTime 1 -c node /server.js"},
		{evermoreApp, "/bin/x" + options + " --hold 3000 /server.js"},
		{clustered(evermoreApp), "/bin/x" + options + " -i 2 /server.js"},
		{evermoreHeld, "/bin/x --hold 3000 -- node node /server.js"},
		{clustered(nodeCluster), `sh -c "$@" & exit sh node /cluster.js /server.js 2`},
		{pm2App, "/bin/pm2 start " + j.dir + "/bench.json"},
	} {
		argv, err := c.as(p, j)
		if err != nil || strings.Join(argv, " ") != c.want {
			t.Errorf("got %q, %v; want %q", argv, err, c.want)
		}
	}
	config := func() string {
		text, err := os.ReadFile(j.dir + "/bench.json")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if text := config(); strings.Contains(text, "instances") || !strings.Contains(text, `"script":"/server.js"`) {
		t.Error(text)
	}
	j.instances = 4
	if _, err := clustered(pm2App)(p, j); err != nil {
		t.Fatal(err)
	}
	if text := config(); !strings.Contains(text, `"exec_mode":"cluster","instances":4`) {
		t.Error(text)
	}
}

func TestShares(t *testing.T) {
	for _, c := range []struct {
		connections map[string]int
		n           int
		want        []float64
	}{
		{map[string]int{"7": 30, "8": 10}, 2, []float64{25, 75}},
		{map[string]int{"7": 30, "8": 10}, 4, []float64{0, 0, 25, 75}},
		{map[string]int{"7": 1, "8": 1, "9": 2}, 2, []float64{25, 25, 50}},
	} {
		if got := shares(c.connections, c.n); !slices.Equal(got, c.want) {
			t.Errorf("shares of %v for %d = %v, want %v", c.connections, c.n, got, c.want)
		}
	}
}

// A server tells when node had begun, and when it listens.
func TestListening(t *testing.T) {
	for _, tool := range []string{"cc", "node"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(t, tool+" is missing")
		}
	}
	l, err := newLab("no-evermore", "no-modules")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	node := l.apps[0]
	err = l.timeListening(node, true)
	if errors.Is(err, syscall.EPERM) {
		skip(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	whole, part := l.samples["listening"][node.name], l.samples["listening of node"][node.name]
	if len(whole) != 1 || len(part) != 1 || part[0] <= 0 || part[0] >= whole[0] {
		t.Errorf("%v ms, of which %v are node's", whole, part)
	}
}

// A loop in sh keeps a server up, and each act gives it another process.
func TestAppHost(t *testing.T) {
	for _, tool := range []string{"cc", "node"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(t, tool+" is missing")
		}
	}
	l, err := newLab("no-evermore", "no-modules")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	h, err := l.appHost(l.apps[0], 0)
	if errors.Is(err, syscall.EPERM) {
		skip(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer h.end()
	for _, act := range acts {
		before, err := h.find(h.isApp)
		if err != nil || len(before) != 1 {
			t.Fatalf("the app's processes are %v, %v", before, err)
		}
		if err := act.do(h); err != nil {
			t.Fatalf("%s: %v", act.name, err)
		}
		if err := h.await("another process", func() (bool, error) {
			after, err := h.find(h.isApp)
			return len(after) == 1 && after[0] != before[0], err
		}); err != nil {
			t.Errorf("%s: %v", act.name, err)
		}
	}
}

// A session whose child never comes says so, with what the supervisor said.
func TestSessionNamesTheReason(t *testing.T) {
	s := &session{job: job{dir: t.TempDir()}}
	if err := os.WriteFile(s.stderrPath(), []byte("first\nno such option\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.explain(os.ErrDeadlineExceeded); !strings.HasSuffix(err.Error(), "last on its stderr: no such option") {
		t.Error(err)
	}
}

// skip leaves a test out where it cannot run; in CI nothing may be missing.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
