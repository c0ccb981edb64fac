package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	idleRounds = 3
	settling   = 10 * time.Second // after the start, before anything is read
	idling     = 20 * time.Second
	scrapes    = 60
)

// measureIdle: memory and wake-ups of supervisors whose child sleeps, all of
// them side by side, and memory again after scrapes of the one that serves
// metrics.
func measureIdle(l *lab) {
	for range idleRounds {
		var sessions []*session
		each := func(part func(*session) error) {
			var left []*session
			for _, s := range sessions {
				if err := part(s); err != nil {
					l.fail("idle", s.peer, err)
					s.end()
					continue
				}
				left = append(left, s)
			}
			sessions = left
		}
		for _, p := range l.peers {
			if p.program == "" {
				continue
			}
			how := p.once
			if p.served != nil {
				how = p.served
			}
			s, err := l.start(p, how, "child")
			if err != nil {
				l.fail("idle", p, err)
				continue
			}
			sessions = append(sessions, s)
		}
		each(func(s *session) error {
			_, err := s.next(began)
			return err
		})
		time.Sleep(settling)
		each(func(s *session) error { return l.weigh(s, "idle") })

		before := make(map[*session]float64)
		each(func(s *session) (err error) {
			before[s], err = s.switches()
			return err
		})
		time.Sleep(idling)
		each(func(s *session) error {
			after, err := s.switches()
			if err == nil {
				l.keep("wake-ups", s.peer, (after-before[s])/idling.Seconds())
			}
			return err
		})

		each(func(s *session) error {
			if s.peer.name != "evermore" {
				return nil
			}
			if err := scrape(l.http); err != nil {
				return s.explain(err)
			}
			time.Sleep(time.Second)
			return l.weigh(s, "scraped")
		})
		each(func(s *session) error { s.end(); return nil })
	}
}

// weigh keeps the resident and the anonymous memory of a supervisor, in MiB.
func (l *lab) weigh(s *session, when string) error {
	resident, err := s.sum("status", "VmRSS")
	if err != nil {
		return err
	}
	anonymous, err := s.sum("status", "RssAnon")
	if err != nil {
		return err
	}
	l.keep(when+" RSS", s.peer, resident/1024)
	l.keep(when+" anonymous", s.peer, anonymous/1024)
	return nil
}

// switches is how often the threads of a supervisor have been scheduled so far:
// each wake-up ends in a switch to something else.
func (s *session) switches() (float64, error) {
	return s.sum("task/*/status", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
}

// sum adds up fields of files in /proc/PID, as proc(5) has them, over all
// processes of a supervisor.
func (s *session) sum(files string, fields ...string) (float64, error) {
	pids, err := s.processes()
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, pid := range pids {
		paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/%s", pid, files))
		if err != nil {
			return 0, err
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				return 0, err
			}
			for _, field := range fields {
				value, err := statusField(string(text), field)
				if err != nil {
					return 0, fmt.Errorf("cannot read %s: %w", path, err)
				}
				sum += value
			}
		}
	}
	return sum, nil
}

// statusField reads one number of a status file in /proc.
func statusField(text, field string) (float64, error) {
	for line := range strings.Lines(text) {
		name, value, found := strings.Cut(line, ":")
		if !found || name != field {
			continue
		}
		words := strings.Fields(value)
		if len(words) == 0 {
			break
		}
		return strconv.ParseFloat(words[0], 64)
	}
	return 0, fmt.Errorf("it has no %s", field)
}

// scrape asks for the metrics as Prometheus does: one connection that stays
// open, compression and OpenMetrics offered.
func scrape(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return err
	}
	ask.Header.Set("Accept", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1")
	ask.Header.Set("Accept-Encoding", "gzip")
	for range scrapes {
		answer, err := http.DefaultClient.Do(ask)
		if err != nil {
			return fmt.Errorf("cannot scrape: %w", err)
		}
		_, err = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if err != nil {
			return fmt.Errorf("cannot scrape: %w", err)
		}
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("cannot scrape: %s", answer.Status)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}
