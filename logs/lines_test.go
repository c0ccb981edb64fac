package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	pid1 "evermore/init"
	"evermore/reaper"
)

var at = time.Date(2026, 11, 23, 2, 36, 0, 385_999_999, time.FixedZone("", 3600))

// observed gives what the events make of a log.
func observed(t *testing.T, o LinesOptions, events ...pid1.Event) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	q := NewQueue(int(f.Fd()))
	l := NewLines(q, o)
	for _, e := range events {
		l.Observe(e)
	}
	q.Close(long)
	if q.Lost() != 0 {
		t.Errorf("%d lines lost", q.Lost())
	}
	return content(t, f.Name())
}

// What each event is as a line, and in JSON beside time, level and message.
var eventLines = []struct {
	name     string
	event    pid1.Event
	evermore string
	forever  string // empty: no line without -v
	json     string
}{
	{
		"preparing",
		pid1.Event{Kind: pid1.Preparing, PID: 7},
		"debug: Evermore started the command of --before with pid: 7", "",
		`{"event":"preparing","pid":7}`,
	},
	{
		"started",
		pid1.Event{Kind: pid1.Started, PID: 7},
		"debug: Evermore started script with pid: 7", "",
		`{"event":"started","pid":7,"level":"info"}`,
	},
	{
		"ready",
		pid1.Event{Kind: pid1.Ready, PID: 7, Uptime: 1234567 * time.Microsecond},
		"debug: Evermore detected script is ready after 1.235s", "",
		`{"event":"ready","pid":7,"uptime_ms":1234}`,
	},
	{
		"unready",
		pid1.Event{Kind: pid1.Unready, PID: 7, Text: "it is being ended"},
		"debug: Evermore detected script is not ready any more: it is being ended", "",
		`{"event":"unready","pid":7,"level":"info"}`,
	},
	{
		"unready, nobody knows why",
		pid1.Event{Kind: pid1.Unready, PID: 7},
		"debug: Evermore detected script is not ready any more", "",
		`{"event":"unready","pid":7,"level":"info"}`,
	},
	{
		"exited with a code",
		pid1.Event{Kind: pid1.Exited, PID: 7, Exit: reaper.Exit{PID: 7, Code: 8}, Reason: pid1.ReasonExit, Uptime: 1500 * time.Millisecond},
		"error: Evermore detected script exited with code: 8",
		"error: Forever detected script exited with code: 8",
		`{"event":"exited","pid":7,"code":8,"reason":"exit","uptime_ms":1500}`,
	},
	{
		"exited with 0",
		pid1.Event{Kind: pid1.Exited, PID: 7, Exit: reaper.Exit{PID: 7}, Reason: pid1.ReasonExit},
		"info: Evermore detected script exited with code: 0",
		"error: Forever detected script exited with code: 0",
		`{"event":"exited","pid":7,"code":0,"reason":"exit","uptime_ms":0}`,
	},
	{
		"killed by a signal",
		pid1.Event{Kind: pid1.Exited, PID: 7, Exit: reaper.Exit{PID: 7, Signal: syscall.SIGKILL, PeakMemory: 118 << 20}, Reason: pid1.ReasonOOM, Uptime: time.Hour, Death: &pid1.Death{Usage: pid1.Usage{MemoryLimit: 128 << 20}}},
		"error: Evermore detected script was killed by signal: SIGKILL (oom: it used 118 MiB at its peak, the limit is 128 MiB)",
		"error: Forever detected script was killed by signal: SIGKILL",
		`{"code":137,"event":"exited","pid":7,"signal":"SIGKILL","reason":"oom","uptime_ms":3600000,"peak_bytes":123731968}`,
	},
	{
		"killed as asked",
		pid1.Event{Kind: pid1.Exited, PID: 7, Exit: reaper.Exit{PID: 7, Signal: syscall.SIGTERM}, Reason: pid1.ReasonRequest},
		"info: Evermore detected script was killed by signal: SIGTERM",
		"error: Forever detected script was killed by signal: SIGTERM",
		`{"code":143,"event":"exited","pid":7,"signal":"SIGTERM","reason":"request","uptime_ms":0}`,
	},
	{
		"of another process of the container",
		pid1.Event{Kind: pid1.OOMKilled, Count: 1},
		"warn: a process of this container was killed for want of memory",
		"warn: a process of this container was killed for want of memory",
		`{"event":"oom_killed","count":1}`,
	},
	{
		"of the app and another",
		pid1.Event{Kind: pid1.OOMKilled, PID: 7, Count: 2},
		"warn: 2 processes of this container were killed for want of memory",
		"warn: 2 processes of this container were killed for want of memory",
		`{"event":"oom_killed","pid":7,"count":2}`,
	},
	{
		"noted",
		pid1.Event{Kind: pid1.Noted, Text: "so it is"},
		"info: so it is",
		"",
		`{"event":"noted"}`,
	},
	{
		"spawn failed",
		pid1.Event{Kind: pid1.SpawnFailed, Exit: reaper.Exit{Code: 127}, Reason: pid1.ReasonSpawn, Err: errors.New(`cannot find "nodee"`), Text: "again"},
		`error: Evermore detected script did not start: again: cannot find "nodee"`,
		`error: Forever detected script did not start: again: cannot find "nodee"`,
		`{"event":"spawn_failed","code":127,"reason":"spawn"}`,
	},
	{
		"backing off",
		pid1.Event{Kind: pid1.BackingOff, Backoff: 1600 * time.Millisecond},
		"info: Evermore waits 1.6s before restarting script", "",
		`{"event":"backing_off","backoff_ms":1600}`,
	},
	{
		"restarting",
		pid1.Event{Kind: pid1.Restarting, Restarts: 2, Reason: pid1.ReasonException, Exit: reaper.Exit{Code: 1}},
		"error: Evermore restarting script for 2 time",
		"error: Forever restarting script for 2 time",
		`{"event":"restarting","restarts":2,"reason":"exception"}`,
	},
	{
		"restarting as asked",
		pid1.Event{Kind: pid1.Restarting, Restarts: 1, Reason: pid1.ReasonWatch},
		"info: Evermore restarting script for 1 time",
		"error: Forever restarting script for 1 time",
		`{"event":"restarting","restarts":1,"reason":"watch"}`,
	},
	{
		"gave up",
		pid1.Event{Kind: pid1.GaveUp, Code: 8, Text: "it did not stay up for 1s"},
		"error: Evermore gives up on script: it did not stay up for 1s; exit code: 8",
		"error: Forever gives up on script: it did not stay up for 1s; exit code: 8",
		`{"event":"gave_up","code":8}`,
	},
	{
		"stopping",
		pid1.Event{Kind: pid1.Stopping, PID: 7, Signal: syscall.SIGTERM, SentAs: syscall.SIGINT},
		"info: Evermore stopping script because of SIGTERM", "",
		`{"event":"stopping","pid":7,"signal":"SIGTERM","sent_as":"SIGINT"}`,
	},
	{
		"stopping after a drain",
		pid1.Event{Kind: pid1.Stopping, PID: 7, Signal: syscall.SIGTERM, SentAs: syscall.SIGINT, Drain: 5 * time.Second},
		"info: Evermore stopping script because of SIGTERM when it has drained for 5s", "",
		`{"event":"stopping","pid":7,"signal":"SIGTERM","sent_as":"SIGINT","drain_ms":5000}`,
	},
	{
		"stopping by a request after a drain",
		pid1.Event{Kind: pid1.Stopping, PID: 7, SentAs: syscall.SIGTERM, Drain: 5 * time.Second},
		"info: Evermore stopping script when it has drained for 5s", "",
		`{"event":"stopping","pid":7,"sent_as":"SIGTERM","drain_ms":5000}`,
	},
	{
		"drained",
		pid1.Event{Kind: pid1.Drained, PID: 7, SentAs: syscall.SIGTERM},
		"info: Evermore has let script drain, and sends it SIGTERM", "",
		`{"event":"drained","pid":7,"sent_as":"SIGTERM"}`,
	},
	{
		"draining",
		pid1.Event{Kind: pid1.Draining, PID: 7},
		"debug: Evermore lets script finish what it has begun", "",
		`{"event":"draining","pid":7}`,
	},
	{
		"hanging",
		pid1.Event{Kind: pid1.HungAt, PID: 7, Text: "    at busy (/srv/app.js:3:7)\n    at \x1b[2J\"x\" (/srv/app.js:9:1)\n"},
		"warn: Evermore detected where script hangs\n    at busy (/srv/app.js:3:7)\n    at  [2J\"x\" (/srv/app.js:9:1)",
		"warn: Forever detected where script hangs\n    at busy (/srv/app.js:3:7)\n    at  [2J\"x\" (/srv/app.js:9:1)",
		`{"event":"hung_at","pid":7,"stack":"at busy (/srv/app.js:3:7)\nat  [2J\"x\" (/srv/app.js:9:1)"}`,
	},
	{
		"reloading",
		pid1.Event{Kind: pid1.Reloading, Text: "it was asked to"},
		"info: Evermore reloading script because it was asked to", "",
		`{"event":"reloading"}`,
	},
	{
		"reloading, nobody knows why",
		pid1.Event{Kind: pid1.Reloading},
		"info: Evermore reloading script", "",
		`{"event":"reloading"}`,
	},
	{
		"replaced",
		pid1.Event{Kind: pid1.Replaced, PID: 9, Reason: pid1.ReasonReload, Restarts: 3},
		"info: Evermore replaced script by a new process with pid: 9", "",
		`{"event":"replaced","pid":9,"reason":"reload","restarts":3}`,
	},
	{
		"reloaded",
		pid1.Event{Kind: pid1.Reloaded, Result: pid1.ReloadOK, Uptime: 1234567 * time.Microsecond, Text: "it was asked to"},
		"info: Evermore reloaded script in 1.235s", "",
		`{"event":"reloaded","result":"ok","duration_ms":1234}`,
	},
	{
		"rolled back",
		pid1.Event{Kind: pid1.Reloaded, Result: pid1.ReloadRolledBack, Err: errors.New("the new process ended")},
		"error: Evermore rolled the reload of script back, which goes on as it was: the new process ended",
		"error: Forever rolled the reload of script back, which goes on as it was: the new process ended",
		`{"event":"reloaded","result":"rolled_back","duration_ms":0}`,
	},
	{
		"not reloaded",
		pid1.Event{Kind: pid1.Reloaded, Result: pid1.ReloadRefused, Err: errors.New("there is no room")},
		"error: Evermore refused to reload script: there is no room",
		"error: Forever refused to reload script: there is no room",
		`{"event":"reloaded","result":"refused","duration_ms":0}`,
	},
	{
		"reloaded in vain",
		pid1.Event{Kind: pid1.Reloaded, Result: pid1.ReloadFailed, Err: errors.New("it is not ready")},
		"error: Evermore could not reload script: it is not ready",
		"error: Forever could not reload script: it is not ready",
		`{"event":"reloaded","result":"failed","duration_ms":0}`,
	},
	{
		"scaled",
		pid1.Event{Kind: pid1.Scaled, Count: 4},
		"info: Evermore scaling script to instances: 4", "",
		`{"event":"scaled","count":4}`,
	},
	{
		"stopping without a signal",
		pid1.Event{Kind: pid1.Stopping, PID: 7},
		"info: Evermore stopping script", "",
		`{"event":"stopping","pid":7}`,
	},
	{
		"forwarded",
		pid1.Event{Kind: pid1.Signalled, Signal: syscall.SIGUSR2, SentAs: syscall.SIGUSR2, SenderPID: 12, SenderUID: 1000},
		"info: Evermore received SIGUSR2 from pid 12 (uid 1000), forwarded", "",
		`{"event":"signalled","signal":"SIGUSR2","sent_as":"SIGUSR2","sender_pid":12,"sender_uid":1000}`,
	},
	{
		"rewritten",
		pid1.Event{Kind: pid1.Signalled, Signal: syscall.SIGTERM, SentAs: syscall.SIGINT, SenderPID: 12},
		"info: Evermore received SIGTERM from pid 12 (uid 0), forwarded as SIGINT", "",
		`{"event":"signalled","signal":"SIGTERM","sent_as":"SIGINT","sender_pid":12,"sender_uid":0}`,
	},
	{
		"not forwarded",
		pid1.Event{Kind: pid1.Signalled, Signal: syscall.SIGINT},
		"info: Evermore received SIGINT from outside this pid namespace, not forwarded", "",
		`{"event":"signalled","signal":"SIGINT","sender_pid":0,"sender_uid":0}`,
	},
	{
		"resized",
		pid1.Event{Kind: pid1.Signalled, Signal: syscall.SIGWINCH, SentAs: syscall.SIGWINCH, FromKernel: true, FromTerminal: true},
		"trace: Evermore received SIGWINCH from the terminal, which the script has got, too", "",
		`{"event":"signalled","signal":"SIGWINCH","sent_as":"SIGWINCH","sender_pid":0,"sender_uid":0}`,
	},
	{
		"sent a signal",
		pid1.Event{Kind: pid1.SignalSent, PID: 7, Signal: syscall.SIGHUP, Text: "/srv/app.js changed"},
		"info: Evermore sent SIGHUP to script because /srv/app.js changed", "",
		`{"event":"signal_sent","pid":7,"signal":"SIGHUP"}`,
	},
	{
		"killed",
		pid1.Event{Kind: pid1.Killed, PID: 7, Signal: syscall.SIGKILL},
		"warn: Evermore killed script by signal: SIGKILL",
		"warn: Forever killed script by signal: SIGKILL",
		`{"event":"killed","pid":7,"signal":"SIGKILL"}`,
	},
	{
		"leftovers",
		pid1.Event{Kind: pid1.LeftoversEnding, PID: 7, Text: "chrome (8), sh (9)"},
		"info: Evermore ending what script left behind: chrome (8), sh (9)", "",
		`{"event":"leftovers_ending","pid":7}`,
	},
	{
		"stuck leftovers",
		pid1.Event{Kind: pid1.LeftoversStuck, PID: 7, Text: "chrome (8)"},
		"warn: Evermore could not end what script left behind: chrome (8)",
		"warn: Forever could not end what script left behind: chrome (8)",
		`{"event":"leftovers_stuck","pid":7}`,
	},
	{
		"orphan",
		pid1.Event{Kind: pid1.OrphanReaped, PID: 9, Exit: reaper.Exit{PID: 9, Code: 3}},
		"debug: Evermore reaped an orphan with pid: 9", "",
		`{"event":"orphan_reaped","pid":9,"code":3}`,
	},
	{
		"zombie",
		pid1.Event{Kind: pid1.ZombieFound, PID: 12, ParentPID: 7, Name: "node"},
		"warn: Evermore found a zombie: pid 12 is dead and its parent node (pid 7) does not reap it",
		"warn: Forever found a zombie: pid 12 is dead and its parent node (pid 7) does not reap it",
		`{"event":"zombie_found","pid":12,"parent_pid":7}`,
	},
	{
		"status",
		pid1.Event{Kind: pid1.StatusTold, PID: 7, Text: "loading"},
		"debug: status of script: loading", "",
		`{"event":"status_told","pid":7}`,
	},
	{
		"warned of an error",
		pid1.Event{Kind: pid1.Warned, Err: errors.New("cannot listen on :9797")},
		"warn: cannot listen on :9797", "warn: cannot listen on :9797",
		`{"event":"warned"}`,
	},
	{
		"warned by a text",
		pid1.Event{Kind: pid1.Warned, Text: "mind the gap"},
		"warn: mind the gap", "warn: mind the gap",
		`{"event":"warned"}`,
	},
	{
		"stopped",
		pid1.Event{Kind: pid1.Stopped, Code: 143},
		"debug: Evermore ends with exit code: 143", "",
		`{"event":"stopped","code":143}`,
	},
}

func TestLinesOfEachEvent(t *testing.T) {
	for _, test := range eventLines {
		t.Run(test.name, func(t *testing.T) {
			e := test.event
			e.Time = at
			level, message, _ := strings.Cut(test.evermore, ": ")

			const stamp = "2026-11-23T01:36:00.385Z"
			if got, want := observed(t, LinesOptions{Debug: true}, e), stamp+" - "+test.evermore+"\n"; got != want {
				t.Errorf("with -d: %q, not %q", got, want)
			}
			for _, v := range []struct {
				name    string
				opts    LinesOptions
				without string // levels that are no lines
			}{
				{"by default", LinesOptions{}, "debug trace"},
				{"with -v", LinesOptions{Verbose: true}, "trace"},
			} {
				want := test.evermore + "\n"
				if strings.Contains(v.without, level) {
					want = ""
				}
				if got := observed(t, v.opts, e); got != want {
					t.Errorf("%s: %q, not %q", v.name, got, want)
				}
				if want != "" {
					want = stamp + " - " + want
				}
				v.opts.Timestamps = true
				if got := observed(t, v.opts, e); got != want {
					t.Errorf("%s and timestamps: %q, not %q", v.name, got, want)
				}
			}

			want := test.forever
			if want != "" {
				want += "\n"
			}
			if got := observed(t, LinesOptions{Forever: true}, e); got != want {
				t.Errorf("as forever: %q, not %q", got, want)
			}

			got := decode(t, observed(t, LinesOptions{Debug: true, JSON: true}, e))
			all := decode(t, test.json)
			all["time"] = stamp
			all["message"], _, _ = strings.Cut(message, "\n")
			if all["level"] == nil { // the same as on the console
				all["level"] = level
			}
			if !reflect.DeepEqual(got, all) {
				t.Errorf("as JSON: %v, not %v", got, all)
			}
		})
	}
}

// Each kind has a name and words of its own, those that come later too.
func TestLinesKnowEachKind(t *testing.T) {
	seen := make(map[string]bool)
	for _, test := range eventLines {
		seen[kindName(test.event.Kind)] = true
	}
	for k := pid1.Preparing; k <= pid1.Stopped; k++ {
		if name := kindName(k); name == "" || !seen[name] {
			t.Errorf("no line for kind %d (%q)", k, name)
		}
	}
	if got := observed(t, LinesOptions{Verbose: true, JSON: true}, pid1.Event{Kind: pid1.Stopped + 1}); !strings.Contains(got, `"event":"unknown"`) {
		t.Errorf("a kind from the future: %q", got)
	}
}

// Of several processes a line names the one that it is about.
func TestLinesOfWorkers(t *testing.T) {
	for _, test := range []struct {
		event          pid1.Event
		plain, several bool // it is named
	}{
		{pid1.Event{Kind: pid1.Exited, PID: 7}, false, true},
		{pid1.Event{Kind: pid1.Exited, PID: 7, Worker: 2}, true, true},
		{pid1.Event{Kind: pid1.BackingOff}, false, true},
		{pid1.Event{Kind: pid1.Warned, PID: 7, Text: "w"}, false, true},
		{pid1.Event{Kind: pid1.Warned, Text: "of nobody"}, false, false},
		{pid1.Event{Kind: pid1.Signalled, Signal: syscall.SIGHUP, SentAs: syscall.SIGHUP}, false, true},
		{pid1.Event{Kind: pid1.Signalled, Signal: syscall.SIGHUP}, false, false},
		{pid1.Event{Kind: pid1.Reloaded, Result: pid1.ReloadOK}, false, false},
		{pid1.Event{Kind: pid1.Stopped}, false, false},
	} {
		for _, o := range []LinesOptions{{Verbose: true}, {Verbose: true, Workers: true}} {
			named := test.plain
			if o.Workers {
				named = test.several
			}
			suffix := fmt.Sprintf(" (worker %d)\n", test.event.Worker)
			if got := observed(t, o, test.event); strings.HasSuffix(got, suffix) != named {
				t.Errorf("%+v: %q", o, got)
			}
			o.JSON = true
			got, has := decode(t, observed(t, o, test.event))["worker"]
			if has != named || named && got != float64(test.event.Worker) {
				t.Errorf("%+v: worker %v of %+v", o, got, test.event)
			}
		}
	}
	stack := pid1.Event{Kind: pid1.HungAt, PID: 7, Worker: 1, Text: "at a\nat b"}
	if got, want := observed(t, LinesOptions{}, stack), "warn: Evermore detected where script hangs (worker 1)\n    at a\n    at b\n"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

// Of a stack that is too long the innermost frames are told, and each as a whole.
func TestLinesOfLongStacks(t *testing.T) {
	const pipeBuf = 4096
	var frames strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&frames, "    at \"f%d\" (/srv/app.js:1:1)\n", i)
	}
	for _, text := range []string{frames.String(), strings.Repeat("\"\n", 10_000), strings.Repeat("\xff", 10_000), ""} {
		e := pid1.Event{Kind: pid1.HungAt, PID: 1 << 22, Worker: 127, Text: text}
		for _, o := range []LinesOptions{{Debug: true, Color: true}, {JSON: true}} {
			got := observed(t, o, e)
			if len(got) > pipeBuf || !strings.HasSuffix(got, "\n") {
				t.Errorf("%d bytes: %.200q", len(got), got)
			}
		}
		stack, ok := decode(t, observed(t, LinesOptions{JSON: true}, e))["stack"].(string)
		lines := strings.Split(stack, "\n")
		if last := lines[len(lines)-1]; !ok || text == frames.String() && (len(lines) < 20 || last != fmt.Sprintf("at \"f%d\" (/srv/app.js:1:1)", len(lines)-1)) {
			t.Errorf("the stack is %q", stack)
		}
	}
}

func TestLinesInColor(t *testing.T) {
	exited := pid1.Event{Kind: pid1.Exited, Exit: reaper.Exit{Code: 1}}
	got := observed(t, LinesOptions{Color: true, Verbose: true}, exited,
		pid1.Event{Kind: pid1.Warned, Text: "w"}, pid1.Event{Kind: pid1.BackingOff}, pid1.Event{Kind: pid1.Stopped})
	want := "\x1b[31merror\x1b[39m: Evermore detected script exited with code: 1\n" +
		"\x1b[33mwarn\x1b[39m: w\n" +
		"\x1b[32minfo\x1b[39m: Evermore waits 0s before restarting script\n" +
		"debug: Evermore ends with exit code: 0\n"
	if got != want {
		t.Errorf("%q, not %q", got, want)
	}
	if got := observed(t, LinesOptions{Color: true, JSON: true}, exited); strings.Contains(got, "\x1b") {
		t.Errorf("colour in JSON: %q", got)
	}
}

// What comes from outside forges no line, and a line fits into a pipe as a whole.
func TestLinesAreCleanAndShort(t *testing.T) {
	const pipeBuf = 4096
	for _, text := range []string{
		"a\nerror: Forever restarting script for 1 time\r\x1b[2J\x00\u0085b",
		"\xff\xfe",
		strings.Repeat(`"`, 100_000),
		strings.Repeat("ü", 100_000),
		"a" + strings.Repeat("ü", 100_000),
		strings.Repeat("\xff", 100_000),
		strings.Repeat("\x01", 100_000),
	} {
		for _, asJSON := range []bool{false, true} {
			e := pid1.Event{
				Kind: pid1.Warned, Text: text, PID: 1 << 22, Signal: syscall.SIGVTALRM, SentAs: syscall.SIGVTALRM,
				Reason: pid1.ReasonException,
			}
			got := observed(t, LinesOptions{JSON: asJSON, Debug: true, Color: true}, e)
			if strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") || len(got) > pipeBuf {
				t.Errorf("%d bytes: %.200q", len(got), got)
			}
			if strings.ContainsAny(strings.TrimPrefix(got, "\x1b[33mwarn\x1b[39m"), "\r\x00\u0085") || strings.Contains(got, "\x1b[2J") {
				t.Errorf("control characters: %.200q", got)
			}
			if asJSON {
				decode(t, got)
			}
			if !utf8.ValidString(got) {
				t.Errorf("no UTF-8: %.200q", got)
			}
		}
	}
}

// A time that nobody gave is now.
func TestLinesHaveATime(t *testing.T) {
	before := time.Now().Truncate(time.Millisecond)
	got := decode(t, observed(t, LinesOptions{JSON: true}, pid1.Event{Kind: pid1.Warned, Text: "w"}))
	when, err := time.Parse(time.RFC3339, fmt.Sprint(got["time"]))
	if err != nil || when.Before(before) || when.After(time.Now()) {
		t.Errorf("time %v, error %v", got["time"], err)
	}
}

// A storm of signals waits for nobody, and afterwards the log tells its holes.
func TestLinesInAStorm(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		t.Run(fmt.Sprintf("json=%t", asJSON), func(t *testing.T) {
			leakCheck(t)
			const n = 10_000
			r, w := blockingPipe(t)
			q := NewQueue(int(w.Fd()))
			l := NewLines(q, LinesOptions{JSON: asJSON})
			e := pid1.Event{Kind: pid1.Signalled, Signal: syscall.SIGUSR1, SentAs: syscall.SIGUSR1, SenderPID: 1}
			for range n {
				l.Observe(e)
			}
			all := reading(r)
			eventually(t, "the queue is empty", func() bool { return q.sinks[0].idle() })
			q.Close(long)
			w.Close()
			got := lines(t, <-all)
			last := got[len(got)-1]
			want := fmt.Sprintf("Evermore could not write %d lines of its own here", q.Lost())
			if q.Lost() == 0 || len(got)-1+int(q.Lost()) != n || !strings.Contains(last, want) {
				t.Errorf("%d lines arrived, %d were lost, the last one is %q", len(got), q.Lost(), last)
			}
			if asJSON && decode(t, last)["event"] != "warned" {
				t.Errorf("the last line is %q", last)
			}
		})
	}
}

func decode(t *testing.T, line string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		t.Fatalf("%v in %.200q", err, line)
	}
	return m
}
