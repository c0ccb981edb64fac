package node

import (
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// collectionBuckets are prom-client's for garbage collections, in seconds.
var collectionBuckets = []float64{0.001, 0.01, 0.1, 1, 2, 5}

// Stats are what node tells of itself, from the API that prom-client's default
// metrics are made of. Times are in seconds, sizes in bytes.
type Stats struct {
	Version string `json:"version"` // such as v22.1.0
	// Lag is how long a callback of setImmediate() took to be called just now.
	Lag float64 `json:"lag"`
	// Delay is perf_hooks' monitorEventLoopDelay() since the last question; nil: it
	// has seen nothing yet.
	Delay *Delay `json:"delay"`
	// Active and Idle are perf_hooks' eventLoopUtilization(), since node's start.
	Active float64 `json:"active"`
	Idle   float64 `json:"idle"`
	Memory struct {
		HeapTotal float64 `json:"heapTotal"`
		HeapUsed  float64 `json:"heapUsed"`
		External  float64 `json:"external"`
	} `json:"memory"`
	Spaces []Space `json:"spaces"`
	// Collections are garbage collections since the start, by kind.
	Collections map[string]Collections `json:"collections"`
	// Active ones by type. A type is the name of a class.
	Handles   map[string]float64 `json:"handles"`
	Requests  map[string]float64 `json:"requests"`
	Resources map[string]float64 `json:"resources"`
}

// Delay is a distribution of event loop delays.
type Delay struct {
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Mean   float64 `json:"mean"`
	Stddev float64 `json:"stddev"`
	P50    float64 `json:"p50"`
	P90    float64 `json:"p90"`
	P99    float64 `json:"p99"`
}

// Space is a part of V8's heap.
type Space struct {
	Name      string  `json:"space_name"`
	Size      float64 `json:"space_size"`
	Used      float64 `json:"space_used_size"`
	Available float64 `json:"space_available_size"`
}

// Collections is a histogram: Buckets counts those that took at most as long as
// each of prom-client's buckets.
type Collections struct {
	Seconds float64  `json:"seconds"`
	Count   uint64   `json:"count"`
	Buckets []uint64 `json:"buckets"`
}

// desc describes a metric by prom-client's name and help.
type desc struct {
	*prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) desc {
	return desc{prometheus.NewDesc("nodejs_"+name, help, append([]string{"worker"}, labels...), nil), prometheus.GaugeValue}
}

// StatsDescs describe the metrics that Stats.Collect sends.
type StatsDescs struct {
	lag, min, max, mean, stddev, p50, p90, p99     desc
	time                                           desc
	heapTotal, heapUsed, external                  desc
	spaceSize, spaceUsed, spaceAvailable           desc
	collections                                    desc
	handles, handlesTotal, requests, requestsTotal desc
	resources, resourcesTotal                      desc
	version                                        desc
}

// NewStatsDescs makes the descriptions: the names, units and labels of
// prom-client's default metrics nodejs_*, and a label worker. One it does not have:
// nodejs_eventloop_time_seconds_total by state, OpenTelemetry's
// nodejs.eventloop.time. Its process_* are evermore's own here.
func NewStatsDescs() *StatsDescs {
	d := &StatsDescs{
		lag:            gauge("eventloop_lag_seconds", "Lag of event loop in seconds."),
		min:            gauge("eventloop_lag_min_seconds", "The minimum recorded event loop delay."),
		max:            gauge("eventloop_lag_max_seconds", "The maximum recorded event loop delay."),
		mean:           gauge("eventloop_lag_mean_seconds", "The mean of the recorded event loop delays."),
		stddev:         gauge("eventloop_lag_stddev_seconds", "The standard deviation of the recorded event loop delays."),
		p50:            gauge("eventloop_lag_p50_seconds", "The 50th percentile of the recorded event loop delays."),
		p90:            gauge("eventloop_lag_p90_seconds", "The 90th percentile of the recorded event loop delays."),
		p99:            gauge("eventloop_lag_p99_seconds", "The 99th percentile of the recorded event loop delays."),
		time:           gauge("eventloop_time_seconds_total", "Time that the event loop was active, or idle.", "state"),
		heapTotal:      gauge("heap_size_total_bytes", "Process heap size from Node.js in bytes."),
		heapUsed:       gauge("heap_size_used_bytes", "Process heap size used from Node.js in bytes."),
		external:       gauge("external_memory_bytes", "Node.js external memory size in bytes."),
		spaceSize:      gauge("heap_space_size_total_bytes", "Process heap space size total from Node.js in bytes.", "space"),
		spaceUsed:      gauge("heap_space_size_used_bytes", "Process heap space size used from Node.js in bytes.", "space"),
		spaceAvailable: gauge("heap_space_size_available_bytes", "Process heap space size available from Node.js in bytes.", "space"),
		collections:    gauge("gc_duration_seconds", "Garbage collection duration by kind, one of major, minor, incremental or weakcb.", "kind"),
		handles:        gauge("active_handles", "Number of active libuv handles grouped by handle type. Every handle type is C++ class name.", "type"),
		handlesTotal:   gauge("active_handles_total", "Total number of active handles."),
		requests:       gauge("active_requests", "Number of active libuv requests grouped by request type. Every request type is C++ class name.", "type"),
		requestsTotal:  gauge("active_requests_total", "Total number of active requests."),
		resources:      gauge("active_resources", "Number of active resources that are currently keeping the event loop alive, grouped by async resource type.", "type"),
		resourcesTotal: gauge("active_resources_total", "Total number of active resources."),
		version:        gauge("version_info", "Node.js version info.", "version", "major", "minor", "patch"),
	}
	d.time.kind = prometheus.CounterValue
	return d
}

// Describe is for a prometheus.Collector that sends Stats.
func (d *StatsDescs) Describe(to chan<- *prometheus.Desc) {
	for _, one := range []desc{
		d.lag, d.min, d.max, d.mean, d.stddev, d.p50, d.p90, d.p99, d.time, d.heapTotal, d.heapUsed, d.external,
		d.spaceSize, d.spaceUsed, d.spaceAvailable, d.collections, d.handles, d.handlesTotal, d.requests, d.requestsTotal,
		d.resources, d.resourcesTotal, d.version,
	} {
		to <- one.Desc
	}
}

// mostTypes is how many types of what is active are shown: an app may make up
// classes.
const mostTypes = 50

// Collect sends the metrics of one process.
func (s *Stats) Collect(d *StatsDescs, worker string, to chan<- prometheus.Metric) {
	send := func(one desc, v float64, labels ...string) {
		// An app can write any line it likes: a label may be no UTF-8.
		if m, err := prometheus.NewConstMetric(one.Desc, one.kind, v, append([]string{worker}, labels...)...); err == nil {
			to <- m
		}
	}
	send(d.lag, s.Lag)
	if s.Delay != nil {
		send(d.min, s.Delay.Min)
		send(d.max, s.Delay.Max)
		send(d.mean, s.Delay.Mean)
		send(d.stddev, s.Delay.Stddev)
		send(d.p50, s.Delay.P50)
		send(d.p90, s.Delay.P90)
		send(d.p99, s.Delay.P99)
	}
	send(d.time, s.Active, "active")
	send(d.time, s.Idle, "idle")
	send(d.heapTotal, s.Memory.HeapTotal)
	send(d.heapUsed, s.Memory.HeapUsed)
	send(d.external, s.Memory.External)
	spaces := map[string]bool{}
	for _, space := range s.Spaces {
		name := strings.TrimSuffix(space.Name, "_space")
		if spaces[name] || len(spaces) == mostTypes {
			continue
		}
		spaces[name] = true
		send(d.spaceSize, space.Size, name)
		send(d.spaceUsed, space.Used, name)
		send(d.spaceAvailable, space.Available, name)
	}
	for _, kind := range []string{"major", "minor", "incremental", "weakcb"} {
		c, ok := s.Collections[kind]
		if !ok || len(c.Buckets) != len(collectionBuckets) || !slices.IsSorted(append(slices.Clip(c.Buckets), c.Count)) || c.Seconds < 0 {
			continue // the app's own line, no histogram
		}
		buckets := map[float64]uint64{}
		for i, limit := range collectionBuckets {
			buckets[limit] = c.Buckets[i]
		}
		if m, err := prometheus.NewConstHistogram(d.collections.Desc, c.Count, c.Seconds, buckets, worker, kind); err == nil {
			to <- m
		}
	}
	sendTypes := func(one, total desc, counts map[string]float64) {
		sum, shown := 0.0, 0
		for name, n := range counts {
			sum += n
			if shown++; shown <= mostTypes {
				send(one, n, name)
			}
		}
		send(total, sum)
	}
	sendTypes(d.handles, d.handlesTotal, s.Handles)
	sendTypes(d.requests, d.requestsTotal, s.Requests)
	sendTypes(d.resources, d.resourcesTotal, s.Resources)
	if major, minor, patch, ok := version(s.Version); ok {
		send(d.version, 1, s.Version, major, minor, patch)
	}
}

// version splits v22.1.0.
func version(v string) (major, minor, patch string, ok bool) {
	parts := strings.Split(strings.TrimPrefix(v, "v"), ".")
	if len(parts) < 3 {
		return "", "", "", false
	}
	for _, p := range parts[:2] {
		if _, err := strconv.Atoi(p); err != nil {
			return "", "", "", false
		}
	}
	return parts[0], parts[1], parts[2], true
}
