package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"evermore/bench/load"
)

// actEvery is how often something is done to an app while it is under load.
const actEvery = 2 * time.Second

// acts are what is done to an app: a crash, and what its users do for a new version.
var acts = []struct {
	name string
	do   func(*appHost) error
}{
	{"killed", func(h *appHost) error { return h.signal(syscall.SIGKILL) }},
	{"replaced", (*appHost).replace},
}

// underLoad are the rows of an act, with the goals for what may fail, and for what
// autocannon may count.
func underLoad(title, act string, counted []goal, goals ...goal) []row {
	return []row{
		{title + ": requests refused / timed out / cut", []string{act + " refused", act + " timed out", act + " cut"}, goals},
		{"times done / requests answered", []string{act + " times", act + " answered"}, nil},
		{"the same by autocannon in 10 s: errors / timeouts", []string{act + " errors", act + " timeouts"}, counted},
		{"answer p50 / p99 / longest, ms", []string{act + " p50", act + " p99", act + " longest"}, nil},
	}
}

// measureHold: what becomes of the requests of steady clients while an app is
// killed, or replaced, again and again.
func measureHold(l *lab) {
	for _, act := range acts {
		for _, p := range l.apps {
			if p.program == "" {
				continue
			}
			if err := l.underLoad(p, act.name, act.do); err != nil {
				l.fail("hold, "+act.name, p, err)
			}
			if err := l.underAutocannon(p, act.name, act.do); err != nil {
				l.fail("autocannon, "+act.name, p, err)
			}
		}
	}
}

func (l *lab) underLoad(p peer, act string, do func(*appHost) error) error {
	h, err := l.appHost(p, 0)
	if err != nil {
		return err
	}
	defer h.end()
	run := load.Load{
		Address: h.address(), Kept: 4, Fresh: 4, Requests: load.Mixed(),
		Pause: 5 * time.Millisecond, Timeout: 5 * time.Second,
	}.Start()
	times, err := load.Disturb(actEvery, l.underway, func() error { return do(h) })
	r := run.End()
	if err != nil {
		return err
	}
	for metric, value := range map[string]float64{
		" times": float64(times), " answered": float64(r.Answered),
		" refused": float64(r.Refused), " timed out": float64(r.TimedOut), " cut": float64(r.Cut),
		" p50": ms(r.Latency(0.5)), " p99": ms(r.Latency(0.99)), " longest": ms(r.Latency(1)),
	} {
		l.keep(act+metric, p, value)
	}
	if r.Rejected > 0 {
		return fmt.Errorf("%d requests were answered with another status than 200, the first: %w", r.Rejected, r.Failures[0])
	}
	return nil
}

// autocannonTime is how long autocannon loads an app, which it does without a pause.
const autocannonTime = 10 * time.Second

// underAutocannon: what a client that counts by itself says of the same.
func (l *lab) underAutocannon(p peer, act string, do func(*appHost) error) error {
	h, err := l.appHost(p, 0)
	if err != nil {
		return err
	}
	defer h.end()
	client := exec.Command("node", filepath.Join(l.npm, "autocannon/autocannon.js"), "--json", "--connections", "8",
		"--duration", strconv.Itoa(int(autocannonTime.Seconds())), "--timeout", "5", "http://"+h.address())
	var said, failure bytes.Buffer
	client.Stdout, client.Stderr = &said, &failure
	if err := client.Start(); err != nil {
		return err
	}
	_, err = load.Disturb(actEvery, autocannonTime, func() error { return do(h) })
	if end := client.Wait(); end != nil {
		return fmt.Errorf("%w: %s", end, bytes.TrimSpace(failure.Bytes()))
	}
	if err != nil {
		return err
	}
	var counts struct{ Errors, Timeouts float64 }
	if err := json.Unmarshal(said.Bytes(), &counts); err != nil {
		return err
	}
	l.keep(act+" errors", p, counts.Errors)
	l.keep(act+" timeouts", p, counts.Timeouts)
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

// An appHost is a host with a peer's daemon that keeps server.js.
type appHost struct{ *host }

// appHost makes one, with this many instances (0: as the peer's name says), and
// waits until the app answers. Whoever makes it ends it.
func (l *lab) appHost(p peer, instances int) (*appHost, error) {
	plain, err := l.host(p, "server.js")
	if err != nil {
		return nil, err
	}
	h := &appHost{plain}
	h.job.command = []string{"node", l.program("server.js")}
	h.job.instances = instances
	if err := h.serve(); err != nil {
		h.end()
		return nil, err
	}
	return h, nil
}

func (h *appHost) serve() error {
	argv, err := h.peer.daemon(h.peer, h.job)
	if err != nil {
		return err
	}
	if _, err := h.command(argv...); err != nil {
		return err
	}
	return h.await("the app's answer", func() (bool, error) {
		response, err := http.Get("http://" + h.address())
		if err != nil {
			return false, nil
		}
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body)
		return response.StatusCode == http.StatusOK, err
	})
}

func (h *appHost) address() string { return "127.0.0.1:" + h.lab.port }

func (h *appHost) await(what string, is func() (bool, error)) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if done, err := is(); done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return h.explain(fmt.Errorf("%s did not come within %v", what, patience))
		}
	}
}

// signal sends a signal to the app's process; of several, to the oldest.
func (h *appHost) signal(s syscall.Signal) error {
	return h.await("the app's process", func() (bool, error) {
		nodes, err := h.find(h.isApp)
		if err != nil || len(nodes) == 0 {
			return false, err
		}
		// It may just have ended by itself.
		return syscall.Kill(slices.Min(nodes), s) == nil, nil
	})
}

// isApp tells by the command line, which pm2 rewrites to what node would have: its
// supervisors are node, too.
func (h *appHost) isApp(pid string) bool {
	line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
	words := strings.FieldsFunc(string(line), func(r rune) bool { return r == 0 || r == ' ' })
	return len(words) > 1 && filepath.Base(words[0]) == "node" && words[1] == h.job.command[1]
}

// replace has the app started anew, as for a new version of it.
func (h *appHost) replace() error {
	if h.peer.reload == "" {
		return h.signal(syscall.SIGTERM)
	}
	_, err := h.command(h.peer.client, h.peer.reload, h.job.name)
	return err
}

const (
	shareRounds = 5
	shareTime   = 3 * time.Second // of each load
)

// measureShare: how much work the processes of an app do together, beside one that
// is alone, and who of them gets a connection.
func measureShare(l *lab) {
	several := func(p peer) bool { return strings.HasSuffix(p.name, "-i 2") }
	andOne := func(p peer) bool { return several(p) || p.name == "sh loop" }
	l.roundsOf(l.apps, "throughput", shareRounds, andOne, func(p peer, keep bool) error {
		h, err := l.appHost(p, 0)
		if err != nil {
			return err
		}
		defer h.end()
		r, err := h.under(load.Load{Kept: 8, Fresh: 8, Requests: []load.Request{{Path: "/cpu"}}})
		if err == nil && keep {
			l.keep("throughput", p, float64(r.Answered)/r.Took.Seconds())
		}
		return err
	})
	l.roundsOf(l.apps, "share", shareRounds, several, func(p peer, keep bool) error {
		for _, n := range []int{2, 4} {
			if err := l.spread(p, n, keep); err != nil {
				return err
			}
		}
		return nil
	})
}

// spread measures how n processes share connections: where all of them are busy,
// where they are mostly idle, and where clients keep theirs.
func (l *lab) spread(p peer, n int, keep bool) error {
	h, err := l.appHost(p, n)
	if err != nil {
		return err
	}
	defer h.end()
	for _, under := range []struct {
		name string
		load load.Load
	}{
		{"busy", load.Load{Fresh: 32, Requests: []load.Request{{Path: "/cpu"}}}},
		{"idle", load.Load{Fresh: 2, Requests: []load.Request{{Path: "/"}}, Pause: 5 * time.Millisecond}},
		{"kept", load.Load{Kept: 64, Requests: []load.Request{{Path: "/"}}, Pause: 50 * time.Millisecond}},
	} {
		r, err := h.under(under.load)
		if err != nil {
			return err
		}
		if !keep {
			continue
		}
		for i, percent := range shares(r.Connections, n) {
			l.keep(share(i, n, under.name), p, percent)
		}
	}
	return nil
}

// shares gives what part of all connections each of n processes has got, in %, in
// ascending order: who is not named has got none.
func shares(connections map[string]int, n int) []float64 {
	all := 0
	for _, got := range connections {
		all += got
	}
	list := make([]float64, max(0, n-len(connections)), n)
	for _, got := range connections {
		list = append(list, 100*float64(got)/float64(all))
	}
	slices.Sort(list)
	return list
}

// share names the metric of the process that is i-th in that order.
func share(i, n int, under string) string {
	return fmt.Sprintf("share %d of %d, %s", i+1, n, under)
}

// sharedBy is the row of the shares of n processes.
func sharedBy(n int, title, under string) row {
	r := row{title: fmt.Sprintf("%s, each of %d processes, %%", title, n)}
	for i := range n {
		r.metrics = append(r.metrics, share(i, n, under))
	}
	return r
}

// under puts the app under load for a while, which no request may fail.
func (h *appHost) under(l load.Load) (*load.Result, error) {
	l.Address, l.Timeout = h.address(), patience
	run := l.Start()
	time.Sleep(shareTime)
	r := run.End()
	if r.Failed() > 0 {
		return nil, fmt.Errorf("%d requests failed, the first: %w", r.Failed(), r.Failures[0])
	}
	return r, nil
}
