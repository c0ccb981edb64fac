package cli

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"evermore/node"
)

// statsTime is how long a scrape waits for node to tell of itself: one that is
// busy must not keep the other metrics from being seen.
const statsTime = time.Second

// nodeMetrics are what the app's processes tell of node's runtime. They are asked by
// each scrape, and do nothing in between.
type nodeMetrics struct {
	*holding
	*node.StatsDescs
}

// Collect implements prometheus.Collector.
func (m nodeMetrics) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), statsTime)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range m.running.app.Snapshots() {
		if s.PID == 0 {
			continue
		}
		all.Go(func() {
			if stats, err := m.link.Stats(ctx, s.PID); err == nil {
				stats.Collect(m.StatsDescs, strconv.Itoa(s.Worker), to)
			}
		})
	}
	all.Wait()
}
