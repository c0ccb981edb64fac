package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"time"
)

const (
	listed      = 50
	listSamples = 20
	// listRoom is the memory that there is to be for each daemon, in KiB: more than
	// one of forever takes, and those are the largest.
	listRoom = 80 << 10
)

// measureList: the fork of the command line that lists daemons until it has
// returned. The peers take turns for all of it: fifty daemons of forever need
// 3 GB.
func measureList(l *lab) {
	n, err := daemonsThatFit()
	if err != nil {
		l.failures = append(l.failures, fmt.Sprintf("list: %v", err))
		return
	}
	if n < listed {
		l.notes = append(l.notes, fmt.Sprintf("list: of %d daemons, not %d, for want of memory", n, listed))
	}
	for _, p := range l.peers {
		if p.program == "" || !keepsDaemons(p) {
			continue
		}
		if err := l.timeList(p, n); err != nil {
			l.fail("list", p, err)
		}
	}
}

// daemonsThatFit is how many daemons of every peer the memory that is available
// has room for, at most those that are wanted.
func daemonsThatFit() (int, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	kib, err := statusField(string(text), "MemAvailable")
	if err != nil {
		return 0, fmt.Errorf("cannot read /proc/meminfo: %w", err)
	}
	return max(1, min(listed, int(kib/listRoom))), nil
}

func (l *lab) timeList(p peer, n int) error {
	h, err := l.host(p, "child")
	if err != nil {
		return err
	}
	defer h.end()
	for i := range n {
		h.job.name = fmt.Sprintf("listed-%d", i)
		if _, err := h.daemon(began); err != nil {
			return err
		}
	}
	// A child runs before its daemon can be asked.
	for deadline := time.Now().Add(patience); ; {
		_, rows, err := h.list()
		if err != nil {
			return err
		}
		if rows == n {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it lists %d daemons of %d", rows, n)
		}
	}
	for range listSamples {
		took, rows, err := h.list()
		if err != nil {
			return err
		}
		if rows != n {
			return fmt.Errorf("it lists %d daemons of %d", rows, n)
		}
		l.keep("list", p, took)
	}
	return nil
}

// listedName is a daemon's name in a table; its log's does not end there.
var listedName = regexp.MustCompile(`listed-\d+ `)

// list has the daemons listed and gives how long that took, in milliseconds, and
// how many they were.
func (h *host) list() (ms float64, rows int, err error) {
	from, err := h.printed.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	r, err := h.command(h.peer.client, "list")
	if err != nil {
		return 0, 0, err
	}
	table, err := io.ReadAll(io.NewSectionReader(h.printed, from, 1<<20))
	if err != nil {
		return 0, 0, err
	}
	return float64(r.At-r.Since) / 1e6, len(listedName.FindAll(table, -1)), nil
}
