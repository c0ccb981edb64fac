package main

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// A series is the samples of one peer in one metric.
type series []float64

// quantile gives the value below which the share q (0 to 1) of the samples lies,
// between two samples by a straight line. There must be a sample.
func (s series) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(s))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 == len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

func (s series) median() float64 { return s.quantile(0.5) }

// monotonic is CLOCK_MONOTONIC in nanoseconds, the clock of the programs.
func monotonic() (int64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, fmt.Errorf("cannot read the clock: %w", err)
	}
	return t.Nano(), nil
}
