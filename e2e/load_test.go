package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"evermore/bench/load"
)

// No request is refused, and none waits in vain, while node is killed every 2 s, or
// replaced. Those that a process had when it was killed are cut; when it is replaced,
// none fails.
//
// Each load takes 10 seconds; EVERMORE_LOAD=60s makes it a minute.
func TestNoRequestIsRefused(t *testing.T) {
	duration := 10 * time.Second
	if text := os.Getenv("EVERMORE_LOAD"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatalf("EVERMORE_LOAD: %v", err)
		}
	}
	needs(t, "node")
	app, err := os.ReadFile("../bench/programs/server.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		options []string
	}{
		{"one process", []string{"--hold", "auto"}},
		{"two processes", []string{"-i", "2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the log:\n%s", h.log("app"))
				}
			})
			port, err := freePort()
			if err != nil {
				t.Fatal(err)
			}
			h.file("server.js", string(app))
			// How long a machine takes to start node is not what is tested.
			patient := []string{"--min-uptime", "0", "--spin-sleep-time", "1", "--hold-timeout", patience.String(), "--ready-timeout", patience.String()}
			a := h.runWith([]string{"PORT=" + strconv.Itoa(port)},
				slices.Concat([]string{"evermore", "start", "--uid", "app"}, c.options, patient, []string{"server.js"})...)
			if a.code != 0 {
				t.Fatal(a)
			}
			pid := func() (pid int) {
				eventually(t, "the app answers", func() bool {
					text, err := ask(port, "/")
					if err == nil {
						pid, err = strconv.Atoi(strings.TrimSpace(text))
					}
					return err == nil
				})
				return pid
			}
			pid()

			for _, act := range []struct {
				name string
				do   func()
			}{
				{"killed", func() { h.kill(pid(), syscall.SIGKILL) }},
				{"replaced", func() { h.ok("evermore", "reload", "app") }},
			} {
				under := load.Load{
					Address: "127.0.0.1:" + strconv.Itoa(port), Kept: 4, Fresh: 4, Requests: load.Mixed(),
					Pause: 5 * time.Millisecond, Timeout: patience,
				}
				run := under.Start()
				t.Cleanup(func() { run.End() })
				times, _ := load.Disturb(2*time.Second, duration, func() error { act.do(); return nil })
				got := run.End()
				t.Logf("%s %d times, %d processes: %v", act.name, times, len(got.By), got)

				mayFail := 0
				if act.name == "killed" {
					mayFail = times * (under.Kept + under.Fresh)
				}
				if got.Failed() > got.Cut || got.Cut > mayFail {
					t.Errorf("%s %d times: %v; among them %v", act.name, times, got, got.Failures[:min(got.Failed(), 10)])
				}
				if times == 0 || got.Answered == 0 || len(got.By) < times {
					t.Errorf("%s %d times: %d answers, of %d processes", act.name, times, got.Answered, len(got.By))
				}
			}
			h.ok("evermore", "stop", "app")
			h.isEmpty()
		})
	}
}

// A client that counts by itself finds the same: autocannon, of npm. What it has asked
// of a process that is killed is an error of its own, or goes by unnoticed.
func TestAutocannon(t *testing.T) {
	for _, c := range []struct {
		name    string
		options []string
		client  []string
	}{
		{"one process, connections kept", []string{"--hold", "PORT"}, nil},
		// It counts no answer that is the last of its connection.
		{"two processes, two requests a connection", []string{"-i", "2"}, []string{"--reconnectRate", "2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := newAppHost(t)
			a.begin(append(c.options, "express.js")...)
			a.answers()
			for _, act := range []struct {
				name string
				do   func()
			}{
				{"killed", func() { a.kill(a.answers(), syscall.SIGKILL) }},
				{"replaced", func() { a.ok("evermore", "reload", "app") }},
			} {
				const clients, duration = 6, 10 * time.Second
				argv := slices.Concat([]string{
					"node", "node_modules/autocannon/autocannon.js", "--json",
					"--connections", strconv.Itoa(clients), "--duration", strconv.Itoa(int(duration.Seconds())), "--timeout", strconv.Itoa(int(patience.Seconds())),
				}, c.client, []string{"http://127.0.0.1:" + strconv.Itoa(a.port) + "/"})
				client := a.command(argv...)
				var said bytes.Buffer
				client.Stdout = &said
				if err := client.Start(); err != nil {
					t.Fatal(err)
				}
				times, _ := load.Disturb(2*time.Second, duration, func() error { act.do(); return nil })
				if err := client.Wait(); err != nil {
					t.Fatalf("autocannon: %v: %s", err, &said)
				}
				var counts struct {
					Errors, Timeouts, Non2xx int
					Answers                  int `json:"2xx"`
				}
				if err := json.Unmarshal(said.Bytes(), &counts); err != nil {
					t.Fatalf("autocannon: %v: %s", err, &said)
				}
				t.Logf("%s %d times: %+v", act.name, times, counts)
				mayFail := 0
				if act.name == "killed" {
					mayFail = times * clients
				}
				if counts.Errors > mayFail || counts.Timeouts > 0 || counts.Non2xx > 0 || counts.Answers == 0 || times < 2 {
					t.Errorf("%s %d times: %+v", act.name, times, counts)
				}
			}
			a.ended()
		})
	}
}
