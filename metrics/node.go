package metrics

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// tellTime is how long the app's processes may take to tell of themselves when they
// are asked by a scrape: one whose event loop is busy must not cost the series of
// all others. Together with askTimeout it is well below Prometheus' own limit of 10
// seconds a scrape.
const tellTime = time.Second

// Backlog is how many connections wait at a listening socket for the app to accept
// them, and how many may.
type Backlog struct {
	Host           string // empty: any
	Port           uint16
	Waiting, Limit int
}

// NewBacklogs makes a collector of the sockets that are held for the app. list gives
// those that listen; the series of others are absent. How many connections have
// waited, and for how long, the kernel does not tell.
func NewBacklogs(list func() []Backlog) prometheus.Collector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("evermore_"+name, help, []string{"host", "port"}, nil)
	}
	return &backlogs{
		list:    list,
		waiting: desc("listener_backlog", "Connections that wait at a held port for the app to accept them."),
		limit:   desc("listener_backlog_limit", "How many connections may wait at a held port; what comes then has to try again."),
	}
}

type backlogs struct {
	list           func() []Backlog
	waiting, limit *prometheus.Desc
}

func (c *backlogs) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.waiting
	ch <- c.limit
}

func (c *backlogs) Collect(ch chan<- prometheus.Metric) {
	for _, b := range c.list() {
		port := strconv.Itoa(int(b.Port))
		ch <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(b.Waiting), b.Host, port)
		ch <- prometheus.MustNewConstMetric(c.limit, prometheus.GaugeValue, float64(b.Limit), b.Host, port)
	}
}

// Runtime asks a process of the app to tell of itself, and sends what it tells, with
// the label worker. It returns when the context ends.
type Runtime func(ctx context.Context, pid int, worker string, to chan<- prometheus.Metric)

// NewRuntimes makes a collector of what the app's processes tell of themselves. Each
// scrape asks all that run, at the same time; what one does not tell in time is
// absent. describe gives the descriptions of what they may tell.
func NewRuntimes(src Source, describe func(chan<- *prometheus.Desc), ask Runtime) prometheus.Collector {
	return &runtimes{src, describe, ask}
}

type runtimes struct {
	src      Source
	describe func(chan<- *prometheus.Desc)
	ask      Runtime
}

func (c *runtimes) Describe(ch chan<- *prometheus.Desc) { c.describe(ch) }

func (c *runtimes) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), tellTime)
	defer cancel()
	var asked sync.WaitGroup
	for _, s := range c.src.Snapshots() {
		if s.PID != 0 {
			asked.Go(func() { c.ask(ctx, s.PID, strconv.Itoa(s.Worker), ch) })
		}
	}
	asked.Wait()
}
