package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// collector shows one Stats.
type collector struct {
	*StatsDescs
	stats *Stats
}

func (c collector) Collect(to chan<- prometheus.Metric) { c.stats.Collect(c.StatsDescs, "0", to) }

// families gathers the metrics of Stats, by name.
func families(t *testing.T, s *Stats) map[string]*dto.MetricFamily {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(collector{NewStatsDescs(), s}); err != nil {
		t.Fatal(err)
	}
	list, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*dto.MetricFamily{}
	for _, f := range list {
		all[f.GetName()] = f
	}
	return all
}

// The names and labels are those of prom-client 15, lib/metrics/*.js, and worker.
func TestStats(t *testing.T) {
	names := map[string]string{
		"nodejs_active_handles": "type", "nodejs_active_handles_total": "", "nodejs_active_requests_total": "",
		"nodejs_active_resources": "type", "nodejs_active_resources_total": "",
		"nodejs_eventloop_lag_seconds": "", "nodejs_eventloop_lag_min_seconds": "", "nodejs_eventloop_lag_max_seconds": "",
		"nodejs_eventloop_lag_mean_seconds": "", "nodejs_eventloop_lag_stddev_seconds": "", "nodejs_eventloop_lag_p50_seconds": "",
		"nodejs_eventloop_lag_p90_seconds": "", "nodejs_eventloop_lag_p99_seconds": "", "nodejs_eventloop_time_seconds_total": "state",
		"nodejs_external_memory_bytes": "", "nodejs_gc_duration_seconds": "kind", "nodejs_heap_size_total_bytes": "", "nodejs_heap_size_used_bytes": "",
		"nodejs_heap_space_size_available_bytes": "space", "nodejs_heap_space_size_total_bytes": "space", "nodejs_heap_space_size_used_bytes": "space",
		"nodejs_version_info": "major,minor,patch,version",
	}
	eachLine(t, func(t *testing.T, node string) {
		s := newSupervisor(t, node, Options{AtStart: true, Stats: true})
		s.write("app.js", `setInterval(() => {}, 1e6); setTimeout(() => { gc(); setTimeout(() => console.log('up'), 50) }, 50)`)
		p := s.start(nil, "node", "--expose-gc", "app.js")
		p.says()
		var stats *Stats
		until(t, "stats with a collection of garbage", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var err error
			stats, err = s.link.Stats(ctx, p.Process.Pid)
			return err == nil && len(stats.Collections) > 0 && stats.Delay != nil
		})
		got := families(t, stats)
		for name, labels := range names {
			f := got[name]
			if f == nil {
				t.Errorf("%s is missing", name)
				continue
			}
			var has []string
			for _, l := range f.Metric[0].Label {
				if l.GetName() != "worker" {
					has = append(has, l.GetName())
				}
			}
			slices.Sort(has)
			if strings.Join(has, ",") != labels {
				t.Errorf("%s has the labels %v", name, has)
			}
		}
		for name := range got {
			if _, ok := names[name]; !ok && name != "nodejs_active_requests" {
				t.Errorf("%s is none of prom-client's", name)
			}
		}
		if v := got["nodejs_heap_size_used_bytes"].Metric[0].Gauge.GetValue(); v < 1<<20 || v > 1<<30 {
			t.Errorf("%v bytes of heap are used", v)
		}
		if v := got["nodejs_eventloop_lag_mean_seconds"].Metric[0].Gauge.GetValue(); v <= 0 || v > 10 {
			t.Errorf("the event loop's mean delay is %v s", v)
		}
		h := got["nodejs_gc_duration_seconds"].Metric[0].Histogram
		if h.GetSampleCount() < 1 || h.GetSampleSum() <= 0 || len(h.Bucket) != len(collectionBuckets) || h.Bucket[5].GetCumulativeCount() > h.GetSampleCount() {
			t.Errorf("collections: %v", h)
		}
	})
}

// Whatever an app says its stats are, a scrape shows what can be shown.
func TestStatsOfALiar(t *testing.T) {
	s := &Stats{
		Version: "v1.\xff.2", Spaces: []Space{{Name: "a_space"}, {Name: "a_space"}, {Name: "\xff"}},
		Collections: map[string]Collections{
			"major": {Buckets: []uint64{1}}, "made up": {Buckets: make([]uint64, 6)},
			"minor": {Buckets: []uint64{1, 2, 3, 2, 2, 2}, Count: 9}, "weakcb": {Buckets: make([]uint64, 6), Seconds: -1},
		},
		Resources: map[string]float64{"\xfe": 1},
	}
	for i := range 2 * mostTypes {
		s.Resources[fmt.Sprint(i)] = 1
	}
	got := families(t, s)
	if n := len(got["nodejs_active_resources"].Metric); n > mostTypes || n < mostTypes-1 {
		t.Errorf("%d types", n)
	}
	if v := got["nodejs_active_resources_total"].Metric[0].Gauge.GetValue(); v != 2*mostTypes+1 {
		t.Errorf("%v resources", v)
	}
	if got["nodejs_version_info"] != nil || got["nodejs_gc_duration_seconds"] != nil {
		t.Error("a made-up version or collection is shown")
	}
}

// pm2's messages, as its docs have them.
func TestMessages(t *testing.T) {
	const text = `process.on('message', m => { console.log(m); process.exit() }); setInterval(() => {}, 1e6);
console.log(typeof process.send, process.connected); require('child_process').execFile(process.execPath, ['-p', 'typeof process.send'], (e, out) => {
  console.log(out.trim()); process.send?.('ready', () => console.log('sent')); });`
	eachLine(t, func(t *testing.T, node string) {
		s := newSupervisor(t, node, Options{Messages: true})
		s.write("app.js", text)
		p := s.start(nil, "node", "app.js")
		if a, b := p.says(), p.says(); a != "function undefined" || b != "undefined" {
			t.Errorf("process.send is %s, in a child %s", a, b)
		}
		if got := p.says(); got != "sent" {
			t.Errorf("it says %q", got)
		}
		expect(s, 1, func(e AppReady) bool { return e.PID == p.Process.Pid })
		s.link.Shutdown(p.Process.Pid)
		if got := p.says(); got != "shutdown" {
			t.Errorf("it says %q", got)
		}

		s.write("deaf.js", `setInterval(() => {}, 1e6); process.send('ready')`)
		p = s.start(nil, "node", "deaf.js")
		expect(s, 1, func(e AppReady) bool { return e.PID == p.Process.Pid })
		if !s.link.Shutdown(p.Process.Pid) || s.link.Shutdown(1) {
			t.Error("who is told to shut down is not there, or none is")
		}
		expect(s, 1, func(e Unheard) bool { return e.PID == p.Process.Pid })

		s.write("throws.js", `setInterval(() => {}, 1e6); process.on('message', () => { throw 7 }); process.on('uncaughtException', process.exit); process.send('ready')`)
		p = s.start(nil, "node", "throws.js")
		expect(s, 1, func(e AppReady) bool { return e.PID == p.Process.Pid })
		s.link.Shutdown(p.Process.Pid)
		if code := p.end(); code != 7 {
			t.Errorf("what throws in the app's listener ends with %d", code)
		}

		none := newSupervisor(t, node, Options{AtStart: true})
		none.write("app.js", `console.log(typeof process.send)`)
		if got := none.start(nil, "node", "app.js").says(); got != "undefined" {
			t.Errorf("not asked for, process.send is %s", got)
		}
	})
}

// An app that hangs is silent, and its stack is told; it is one that answered.
func TestHang(t *testing.T) {
	const text = `
function compute() { for (;;) { /^(a+)+$/.test('a'.repeat(28) + 'b') } }
require('http').createServer((q, r) => q.url === '/hang' ? compute() : r.end('app')).listen(process.env.PORT);`
	eachLine(t, func(t *testing.T, node string) {
		at := Address{Port: freePort(t)}
		s := newSupervisor(t, node, Options{}, at)
		s.write("app.js", text)
		p := s.start([]string{onPort(at.Port), "NODE_OPTIONS=" + strings.Join(StackOptions, " ")}, "node", "app.js")
		main := p.Process.Pid
		expect[Listening](s, 1, nil)
		s.link.Ping(main)
		expect(s, 1, func(e Pong) bool { return e.PID == main && e.After < time.Minute })
		go http.Get("http://" + local(at.Port) + "/hang")
		until(t, "silence", func() bool {
			pid, silent := s.link.Ping(main)
			return pid == main && silent > 300*time.Millisecond
		})
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		begin := time.Now()
		stack, err := Stack(ctx, main)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("after %v:\n%s", time.Since(begin).Round(time.Millisecond), stack)
		if !strings.HasPrefix(stack, "    at compute ("+s.dir+"/app.js:2:") || !strings.Contains(stack, "\n    at ") {
			t.Errorf("the stack is\n%s", stack)
		}
		_ = p.Process.Kill()
	})
}

// A process that can't be asked costs the time that is given, and no more.
func TestStackOfAnother(t *testing.T) {
	s := newSupervisor(t, "", Options{})
	p := s.start(nil, "sh", "-c", "trap '' USR1; echo up; sleep 1000 & wait; wait")
	p.says()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if stack, err := Stack(ctx, p.Process.Pid); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("%q, %v", stack, err)
	}
	_ = p.Process.Kill()
	p.end()
	_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
	if _, err := Stack(t.Context(), p.Process.Pid); err == nil {
		t.Error("a dead process has a stack")
	}
}
