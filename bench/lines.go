package main

import (
	"path/filepath"
	"strconv"
)

const (
	lineRounds = 40
	lineSize   = 100
	// lineCount is how many lines go to stdout, and to stderr.
	lineCount = 200_000
)

// measureLines: the first write of a daemon's child until its log holds all lines,
// the file for its stdout and the one for its stderr theirs.
func measureLines(l *lab) {
	l.rounds("lines", lineRounds, keepsDaemons, func(p peer, keep bool) error {
		h, err := l.host(p, "lines", strconv.Itoa(lineCount))
		if err != nil {
			return err
		}
		defer h.end()
		in := func(name string) string { return filepath.Join(h.job.dir, name) }
		h.job.log, h.job.file, h.job.err = in("log"), in("out"), in("err")
		got, err := h.daemon(writes)
		if err != nil {
			return err
		}
		var last int64
		for _, f := range []struct {
			path string
			size int64
		}{
			{h.job.file, lineCount * lineSize},
			{h.job.err, lineCount * lineSize},
			{h.job.log, 2 * lineCount * lineSize},
		} {
			if last, err = filled(f.path, f.size); err != nil {
				return h.explain(err)
			}
		}
		if keep {
			l.keep("lines", p, 2*lineCount/1e3/(float64(last-got[writes].At)/1e9))
		}
		return nil
	})
}
