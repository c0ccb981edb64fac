package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A measurement fills one row of the table or more.
type measurement struct {
	name string
	run  func(*lab)
	rows []row
	// beside are metrics that only the list of samples shows.
	beside []string
	// apps says that it is about what keeps a server up: a table of its own.
	apps bool
}

// A row has one metric in each cell, or several parted by slashes.
type row struct {
	title   string
	metrics []string
	goals   []goal // of the first metrics
}

// A goal is what evermore's median is to reach: at most (or at least) a number,
// or that many times the median of a peer.
type goal struct {
	number  float64
	of      string // empty: the number itself
	atLeast bool
}

var measurements = []measurement{
	{name: "start", run: measureStart, rows: []row{
		{"exec of the supervisor to the child's first instruction, ms", []string{"start"}, []goal{{number: 2.5, of: "tini"}}},
		{"the same with an option (`--http`) to read, ms", []string{"start with options"}, nil},
	}},
	{name: "idle", run: measureIdle, rows: []row{
		{"idle RSS / anonymous memory, MiB, HTTP on", []string{"idle RSS", "idle anonymous"}, []goal{{number: 10}, {number: 2.5}}},
		{"the same 1 s after 60 scrapes", []string{"scraped RSS", "scraped anonymous"}, []goal{{number: 12}, {number: 3.5}}},
		{"wake-ups per second, idle", []string{"wake-ups"}, []goal{{number: 0}}},
	}},
	{name: "restart", run: measureRestart, rows: []row{
		{"child's death to the next child's first instruction, ms", []string{"restart"}, []goal{{number: 1.5, of: "raw"}}},
	}},
	{name: "signal", run: measureSignal, rows: []row{
		{"signal to the child's handler, µs, p50", []string{"signal"}, []goal{{number: 1.7, of: "tini"}}},
	}},
	{name: "orphan", run: measureOrphans, beside: []string{"orphan CPU"}, rows: []row{
		{"orphan reaped, µs each, of 20,000", []string{"orphan"}, []goal{{number: 1, of: "tini"}}},
	}},
	{name: "output", run: measureOutput, rows: []row{
		{"child's output into one file, MB/s", []string{"output"}, []goal{{number: 0.95, of: "raw", atLeast: true}}},
	}},
	{name: "daemon", run: measureDaemonStart, rows: []row{
		{"`start` of a daemon until it returns, ms", []string{"daemon start"}, []goal{{number: 0.1, of: "forever"}}},
		{"the same until the app's first instruction, ms", []string{"daemon up"}, []goal{{number: 0.1, of: "forever"}}},
	}},
	{name: "list", run: measureList, rows: []row{
		{"`list` of 50 daemons, ms", []string{"list"}, []goal{{number: 0.1, of: "forever"}}},
	}},
	{name: "memory", run: measureDaemonMemory, rows: []row{
		{"one daemon's RSS / PSS / USS, MiB", []string{"daemon RSS", "daemon PSS", "daemon USS"}, []goal{{number: 8}}},
		{"the same 1 s after 60 `list`", []string{"listed RSS", "listed PSS", "listed USS"}, nil},
	}},
	{name: "lines", run: measureLines, rows: []row{
		{"lines into a daemon's -l and -o or -e, thousands/s", []string{"lines"}, []goal{{number: 1, of: "forever", atLeast: true}}},
	}},
	{name: "size", run: measureSize, rows: []row{
		{"stripped binary, MB", []string{"size"}, []goal{{number: 11}}},
	}},
	{name: "hold", apps: true, run: measureHold, rows: slices.Concat(
		underLoad("node killed every 2 s", "killed", nil, goal{number: 0}, goal{number: 0}),
		underLoad("replaced every 2 s", "replaced", []goal{{number: 0}, {number: 0}}, goal{number: 0}, goal{number: 0}, goal{number: 0}),
	)},
	{name: "share", apps: true, run: measureShare, rows: []row{
		{"answers that take 1.4 ms of CPU, requests/s", []string{"throughput"}, []goal{{number: 1, of: "pm2 -i 2", atLeast: true}}},
		sharedBy(2, "connections under full load", "busy"),
		sharedBy(4, "connections under full load", "busy"),
		sharedBy(2, "connections of few clients", "idle"),
		sharedBy(4, "connections of few clients", "idle"),
		sharedBy(2, "connections that are kept", "kept"),
		sharedBy(4, "connections that are kept", "kept"),
	}},
	{name: "preload", apps: true, run: measurePreload, rows: []row{
		{"`node -e 0` alone, and with the preload, ms", []string{"run"}, nil},
		{"node's start to its server listening, ms", []string{"listening of node"}, nil},
		{"the same from the exec of node alone, and of evermore, ms", []string{"listening"}, nil},
	}},
}

func names() string {
	var all []string
	for _, m := range measurements {
		all = append(all, m.name)
	}
	return strings.Join(all, ",")
}

// choose gives the measurements that a list of names asks for, in the table's
// order; an empty list asks for all.
func choose(list string) ([]measurement, error) {
	if list == "" {
		return measurements, nil
	}
	wanted := make(map[string]bool)
	for _, name := range strings.Split(list, ",") {
		wanted[name] = true
	}
	var chosen []measurement
	for _, m := range measurements {
		if wanted[m.name] {
			chosen = append(chosen, m)
			delete(wanted, m.name)
		}
	}
	for name := range wanted {
		return nil, fmt.Errorf("unknown measurement %q: use %s", name, names())
	}
	return chosen, nil
}

// write gives the whole result in Markdown.
func (l *lab) write(w io.Writer, done []measurement) {
	fmt.Fprintf(w, "%s\n", machine())
	l.writeTable(w, l.peers, slices.DeleteFunc(slices.Clone(done), func(m measurement) bool { return m.apps }))
	l.writeTable(w, l.apps, slices.DeleteFunc(slices.Clone(done), func(m measurement) bool { return !m.apps }))
	notes := slices.Clone(l.notes)
	for _, p := range l.peers {
		if p.program == "" {
			notes = append(notes, fmt.Sprintf("%s is missing: %s", p.name, p.missing))
		}
	}
	for _, f := range l.failures {
		notes = append(notes, "failed: "+f)
	}
	if len(notes) > 0 {
		fmt.Fprintf(w, "\n- %s\n", strings.Join(notes, "\n- "))
	}

	fmt.Fprint(w, "\nThe samples, in the units above:\n\n| | | samples | least | p25 | p50 | p75 | most |\n|---|---|---|---|---|---|---|---|\n")
	for _, m := range done {
		metrics := m.beside
		for i := len(m.rows) - 1; i >= 0; i-- {
			metrics = append(m.rows[i].metrics[:len(m.rows[i].metrics):len(m.rows[i].metrics)], metrics...)
		}
		for _, metric := range metrics {
			for _, p := range slices.Concat(l.peers, l.apps) {
				s := l.samples[metric][p.name]
				if len(s) < 2 {
					continue
				}
				fmt.Fprintf(w, "| %s | %s | %d |", metric, p.name, len(s))
				for _, q := range []float64{0, 0.25, 0.5, 0.75, 1} {
					fmt.Fprintf(w, " %s |", number(s.quantile(q)))
				}
				fmt.Fprintln(w)
			}
		}
	}
}

func (l *lab) writeTable(w io.Writer, columns []peer, of []measurement) {
	if len(of) == 0 {
		return
	}
	fmt.Fprint(w, "\n| |")
	for _, p := range columns {
		fmt.Fprintf(w, " %s |", p.column())
	}
	fmt.Fprintf(w, " goal | met |\n|---|%s---|---|\n", strings.Repeat("---|", len(columns)))
	for _, m := range of {
		for _, r := range m.rows {
			fmt.Fprintf(w, "| %s |", r.title)
			for _, p := range columns {
				fmt.Fprintf(w, " %s |", l.cell(r, p))
			}
			text, met := l.verdict(r)
			fmt.Fprintf(w, " %s | %s |\n", text, met)
		}
	}
}

// cell is what a peer reached in a row: "-" when it cannot do that.
func (l *lab) cell(r row, p peer) string {
	var parts []string
	for _, metric := range r.metrics {
		if s := l.samples[metric][p.name]; len(s) > 0 {
			parts = append(parts, number(s.median()))
		}
	}
	switch {
	case len(parts) == len(r.metrics):
		return strings.Join(parts, " / ")
	case p.program == "":
		return "missing"
	}
	return "-"
}

// verdict is the goal of a row in words, and whether evermore met it, in all ways
// in which it was measured: "-" when
// what it takes to say so was not measured, nothing when the row has no goal.
func (l *lab) verdict(r row) (text, met string) {
	if len(r.goals) == 0 {
		return "", ""
	}
	var texts []string
	for _, g := range r.goals {
		texts = append(texts, g.String())
	}
	text, met = strings.Join(texts, " / "), "yes"
	for i, g := range r.goals {
		limit := g.number
		if g.of != "" {
			base := l.samples[r.metrics[i]][g.of]
			if len(base) == 0 {
				return text, "-"
			}
			limit *= base.median()
		}
		measured := false
		for name, reached := range l.samples[r.metrics[i]] {
			if len(reached) == 0 || !strings.HasPrefix(name, "evermore") {
				continue
			}
			measured = true
			if g.atLeast && reached.median() < limit || !g.atLeast && reached.median() > limit {
				met = "no"
			}
		}
		if !measured {
			return text, "-"
		}
	}
	return text, met
}

func (g goal) String() string {
	sign := "≤"
	if g.atLeast {
		sign = "≥"
	}
	switch {
	case g.of == "":
		return fmt.Sprintf("%s %v", sign, g.number)
	case g.number == 1:
		return fmt.Sprintf("%s %s", sign, g.of)
	}
	return fmt.Sprintf("%s %v× %s", sign, g.number, g.of)
}

// number writes three digits or so: more than the figures are worth.
func number(v float64) string {
	switch {
	case v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// machine is one line on what the figures were measured on.
func machine() string {
	model := "an unknown CPU"
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	kernel := "an unknown kernel"
	var is unix.Utsname
	if unix.Uname(&is) == nil {
		kernel, _, _ = strings.Cut(unix.ByteSliceToString(is.Release[:]), "-")
	}
	node := "no node"
	if told, err := exec.Command("node", "--version").Output(); err == nil {
		node = "node " + strings.TrimSpace(string(told))
	}
	return fmt.Sprintf("Measured on 2 of %d CPUs (%s), Linux %s, %s, %s.", runtime.NumCPU(), model, kernel, node, runtime.Version())
}
