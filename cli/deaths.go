package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"evermore/control"
	pid1 "evermore/init"
	"evermore/node"
	"evermore/reaper"
	"evermore/signals"
)

// ledgerKey names the story of the app: see control.LedgerKey.
func (s *settings) ledgerKey() string {
	if s.form == container && !s.isGiven("uid") {
		return control.LedgerKey("", s.words(), absolute(s.workingDir))
	}
	return control.LedgerKey(s.uid, nil, "")
}

// words is what runs, as it was asked for.
func (s *settings) words() []string {
	if s.npm != "" && s.form == container {
		return append([]string{"npm", "run", s.npm}, s.argv...)
	}
	return s.argv
}

// absolute is the path as it is from the root on, as far as that is known.
func absolute(path string) string {
	if full, err := filepath.Abs(path); err == nil {
		return full
	}
	return path
}

// observeDeaths has the ledger keep what happens.
func (r *running) observeDeaths(e pid1.Event) {
	switch l := r.ledger; e.Kind {
	case pid1.Started:
		l.Began(e.PID)
	case pid1.Exited, pid1.SpawnFailed:
		l.Died(deathOf(e))
	case pid1.Restarting, pid1.Replaced:
		l.Restarted(string(e.Reason), e.Counted)
	case pid1.OOMKilled:
		l.OOMKilled(e.Count)
	case pid1.Killed:
		l.StopKilled()
	case pid1.Stopped:
		l.Ended()
	}
}

// deathOf is what the ledger keeps of an end.
func deathOf(e pid1.Event) control.Death {
	d := control.Death{
		At: e.Time.Round(0), UptimeMS: max(e.Uptime, 0).Milliseconds(), Reason: string(e.Reason), PID: e.PID, PeakBytes: e.Exit.PeakMemory,
	}
	if !e.Exit.Unknown {
		code := e.Exit.Status()
		d.Code = &code
	}
	if e.Exit.Signal != 0 {
		d.Signal = signals.Name(e.Exit.Signal)
	}
	if e.Death == nil {
		return d
	}
	if by := e.Death.Sender; by.By != "" {
		d.Sender = &control.Sender{By: string(by.By)}
		if by.By == pid1.ByProcess {
			d.Sender.PID, d.Sender.UID = by.PID, &by.UID
		}
	}
	d.MemoryBytes, d.MemoryLimitBytes = e.Death.Memory, e.Death.MemoryLimit
	if t := e.Death.Throttling; e.Death.Throttles && t.Periods > 0 {
		d.Throttling = &control.Throttling{Periods: t.Periods, Throttled: t.Throttled, MS: t.Time.Milliseconds()}
	}
	if p := e.Death.Report; p != nil {
		d.Report = &control.Report{Event: p.Event, Trigger: p.Trigger, Message: p.Message, HeapUsedBytes: p.HeapUsed, HeapLimitBytes: p.HeapLimit}
	}
	return d
}

// keepDeaths goes on with the story that is on file.
func (r *running) keepDeaths() {
	var adopted []int
	if r.adopted != nil {
		for _, s := range r.app.Snapshots() {
			adopted = append(adopted, s.LastPID)
		}
	}
	r.ledger.Keep(adopted, func(p control.Past) {
		if r.comesBack() {
			r.app.Recall(p.Restarts)
		}
		if r.metrics != nil {
			r.metrics.TakeUp(p.Counts.Starts, p.Counts.OOMKills, p.Counts.StopKills, p.Counts.Restarts, p.Counts.Exits)
		}
		if p.Lost > 0 {
			text := "the last run of the app has no end on record: its supervisor ended with it"
			if p.Lost > 1 {
				text = fmt.Sprintf("the last %d runs of the app have no end on record: their supervisor ended with them", p.Lost)
			}
			r.lines.Observe(pid1.Event{Kind: pid1.Noted, Reason: pid1.ReasonLost, Text: text + ", as when a container is killed as a whole"})
		}
	}, r.warn)
}

// comesBack tells whether this is likely to be the same attempt as the last one,
// which uses up the same restarts: a container that is started again, or a
// supervisor in the place of one that was killed. Who starts a daemon, or a command
// on a host, means a new one.
func (r *running) comesBack() bool {
	return r.adopted != nil || r.starter == nil && (os.Getpid() == 1 || os.Getenv("EVERMORE_ROOT") != "")
}

// openReports has node leave reports.
func (r *running) openReports(o *pid1.Options) {
	root, err := control.Root()
	var reports *node.Reports
	if err == nil {
		reports, err = node.OpenReports(filepath.Join(root, "reports", r.ledgerKey()), o.Command.User)
	}
	if err != nil {
		r.say(levelWarn, fmt.Sprintf("--node-report: node leaves no reports: %v", err))
		return
	}
	r.reports = reports
	plain, refresh := o.Command.Env, o.Refresh
	o.Refresh = func(c *reaper.Command) (err error) {
		c.Env = plain
		if refresh != nil {
			err = refresh(c)
		}
		plain = c.Env
		c.Env = reports.Env(plain)
		return err
	}
	o.Explain = func(pid int) *pid1.Report {
		p, err := reports.Take(pid)
		if err != nil {
			r.warn(err)
		}
		if p == nil {
			return nil
		}
		report := &pid1.Report{Event: p.Event, Trigger: p.Trigger, Message: p.Message, HeapUsed: p.HeapUsed, HeapLimit: p.HeapLimit}
		switch {
		case p.Exception():
			report.Reason = pid1.ReasonException
		case p.HeapExhausted():
			report.Reason = pid1.ReasonHeap
		}
		return report
	}
}

// shownDeaths is how many deaths why shows unless it is told.
const shownDeaths = 10

// whyAction tells how an app has died, newest first.
func (s *settings) whyAction(targets []string) (int, error) {
	if len(targets) > 1 {
		return 0, usage("why is about one app, not %d", len(targets))
	}
	d, err := s.deathsOf(targets)
	if err != nil {
		return 1, err
	}
	n := shownDeaths
	if s.isGiven("number") {
		n = s.answer.lines
	}
	d.Deaths = d.Deaths[:min(n, len(d.Deaths))]
	if s.answer.json {
		text, err := json.Marshal(d)
		if err != nil {
			return 1, err
		}
		return 0, s.print(string(text) + "\n")
	}
	if len(d.Deaths) == 0 {
		s.say(levelInfo, "no run of the app has ended since "+d.Counts.Since.Local().Format(time.DateTime))
		return 0, nil
	}
	var b strings.Builder
	for _, one := range d.Deaths {
		b.WriteString(story(one) + "\n")
	}
	return 0, s.print(b.String())
}

// deathsOf asks the supervisor of an app, or reads what a dead one has left.
// Without a target it is the app of PID 1, the only one that runs or else the only
// one on file.
func (s *settings) deathsOf(targets []string) (control.Deaths, error) {
	all, err := s.apps()
	if err != nil {
		return control.Deaths{}, err
	}
	chosen := all
	switch {
	case len(targets) > 0:
		chosen = find(all, targets[0])
	case slices.ContainsFunc(all, func(a *app) bool { return a.PID == 1 }):
		chosen = slices.DeleteFunc(all, func(a *app) bool { return a.PID != 1 })
	}
	if len(chosen) > 1 {
		return control.Deaths{}, usage("why needs a target: an index, uid, id, pid or script of %s list", s.program)
	}
	onFile := control.ReadLedgers()
	named := func(is func(control.Story) bool) (control.Deaths, bool) {
		if i := slices.IndexFunc(onFile, is); i >= 0 {
			return onFile[i].Deaths, true
		}
		return control.Deaths{}, false
	}
	if len(chosen) == 1 {
		a := chosen[0]
		if a.state != nil {
			ctx, cancel := context.WithTimeout(context.Background(), answerTime)
			defer cancel()
			if d, err := a.Deaths(ctx); err == nil {
				return d, nil
			}
		}
		if d, ok := named(func(s control.Story) bool { return s.Key == a.Ledger }); ok {
			return d, nil
		}
		return control.Deaths{}, fmt.Errorf("nothing is known of how %s has died", a.UID)
	}
	if len(targets) > 0 {
		d, ok := named(func(s control.Story) bool { return s.UID == targets[0] })
		if !ok {
			return d, fmt.Errorf("%s cannot find process with id: %s", capital(s.program), targets[0])
		}
		return d, nil
	}
	// In other folders there are apps of other days.
	onFile = slices.DeleteFunc(onFile, func(s control.Story) bool { return s.Root != onFile[0].Root })
	switch len(onFile) {
	case 0:
		return control.Deaths{}, errors.New("nothing runs, and nothing is known of what did; EVERMORE_ROOT names the folder where that is kept")
	case 1:
		return onFile[0].Deaths, nil
	}
	var uids []string
	for _, s := range onFile {
		uids = append(uids, s.UID)
	}
	return control.Deaths{}, usage("nothing runs, and there is the story of several apps: name one of %s", strings.Join(uids, ", "))
}

// story is a death in one line.
func story(d control.Death) string {
	parts := []string{d.At.Local().Format(time.DateTime), fmt.Sprintf("%-9s", d.Reason)}
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	lost := d.Reason == string(pid1.ReasonLost)
	switch {
	case lost:
		add("evermore ended with it: killed, or its whole container was")
	case d.Code == nil:
		add("code unknown")
	case d.Signal == "" && d.Sender == nil:
		add("code %d", *d.Code)
	case d.Signal == "":
		add("code %d, told to end by %s", *d.Code, senderName(d.Sender))
	default:
		add("%s from %s", d.Signal, senderName(d.Sender))
	}
	after := (time.Duration(d.UptimeMS) * time.Millisecond).Round(time.Millisecond)
	if after > time.Minute {
		after = after.Round(time.Second)
	}
	switch {
	case lost:
		add("after %s at the most", after)
	case d.Reason == string(pid1.ReasonSpawn):
		add("it did not start")
	default:
		add("after %s", after)
	}
	if d.PeakBytes > 0 {
		peak := fmt.Sprintf("peak %d MiB", d.PeakBytes>>20)
		if d.MemoryLimitBytes > 0 {
			peak += fmt.Sprintf(" of %d MiB", d.MemoryLimitBytes>>20)
		}
		add("%s", peak)
	}
	if t := d.Throttling; t != nil && t.Throttled > 0 && t.Periods > 0 {
		add("throttled in %d%% of the time", 100*t.Throttled/t.Periods)
	}
	if p := d.Report; p != nil {
		if what := cmp.Or(p.Message, p.Event); what != "" {
			add("%s", what)
		}
		if p.HeapLimitBytes > 0 && d.Reason == string(pid1.ReasonHeap) {
			add("heap %d MiB of %d MiB", p.HeapUsedBytes>>20, p.HeapLimitBytes>>20)
		}
	}
	return strings.Join(parts, "  ")
}

// senderName is who sent a signal, for a person.
func senderName(s *control.Sender) string {
	switch {
	case s == nil:
		return "an unknown sender"
	case s.By == string(pid1.ByProcess) && s.UID != nil:
		return fmt.Sprintf("pid %d (uid %d)", s.PID, *s.UID)
	case s.By == string(pid1.ByOutside):
		return "outside the container"
	case s.By == string(pid1.ByEvermore):
		return "evermore"
	}
	return "the " + s.By
}
