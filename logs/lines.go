package logs

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rs/zerolog"

	pid1 "evermore/init"
	"evermore/signals"
)

// LinesOptions says how evermore's own lines look and which are written.
type LinesOptions struct {
	// Forever names the product "Forever" and writes only what forever 3.0.4
	// writes, at forever's levels, and beside it what is wrong: scripts read it.
	Forever bool
	// JSON writes one JSON object a line, by zerolog; else it is forever's
	// "level: message".
	JSON bool
	// Color colours the level of a console line as forever does.
	Color bool
	// Verbose adds the lines of level debug.
	Verbose bool
	// Debug adds those of level trace too, and Timestamps.
	Debug bool
	// Timestamps puts the time before a console line, as forever 3.0.4 did:
	// "2026-11-23T01:36:00.385Z - ".
	Timestamps bool
	// Workers names the process that a line is about, of several: by the field
	// worker, or behind a console line. Without it only those with a number above 0
	// are named.
	Workers bool
}

// level is the least level that is written.
func (o LinesOptions) level() zerolog.Level {
	switch {
	case o.Debug:
		return zerolog.TraceLevel
	case o.Verbose:
		return zerolog.DebugLevel
	case o.Forever:
		return zerolog.WarnLevel
	}
	return zerolog.InfoLevel
}

// maxMessage keeps a line below PIPE_BUF, also when each of its bytes needs a
// backslash in JSON.
const maxMessage = 1500

// timeFormat is RFC 3339 in UTC with milliseconds, as JavaScript's toISOString
// gives it: what collectors of logs and forever's timestamps both have.
const timeFormat = "2006-01-02T15:04:05.000Z"

// Lines turns events into evermore's own log lines. It is safe for concurrent
// use and never blocks.
//
// Which events are lines, and at which level:
//
//	event                          evermore   as forever
//	exited                         error      error
//	  with code 0, or as asked*    info       error
//	restarting                     error      error
//	  after code 0, or as asked*   info       error
//	spawn_failed, gave_up          error      error
//	  with code 0                  info       error
//	reloaded, but with result ok   error      error
//	killed, leftovers_stuck,       warn       warn
//	  zombie_found, warned,
//	  hung_at,
//	  oom_killed (of others)
//	backing_off, stopping,         info       -
//	  drained, signalled,
//	  signal_sent, noted,
//	  leftovers_ending, reloading,
//	  replaced, reloaded, scaled
//	preparing, started, ready,     debug: -v
//	  unready, draining,
//	  orphan_reaped, status_told,
//	  stopped,
//	  oom_killed (of the app)
//	  (in JSON started, unready)   info       debug
//	signalled by WINCH (a          trace: -d
//	  terminal was resized)
//
// (* for the reason request, reload or watch.) The frames of hung_at are lines of
// their own, indented. Without -v and -d, forever's own
// lines through its name are these two, word for word:
//
//	error: Forever detected script exited with code: 8
//	error: Forever restarting script for 1 time
type Lines struct {
	product string
	opts    LinesOptions
	level   zerolog.Level
	queue   *Queue
}

// NewLines returns lines that are written to the queue.
func NewLines(q *Queue, o LinesOptions) *Lines {
	l := &Lines{product: "Evermore", opts: o, level: o.level(), queue: q}
	if o.Forever {
		l.product = "Forever"
	}
	q.tellLosses(l.lossLine)
	return l
}

// Observe writes the event's line, if it is to have one.
func (l *Lines) Observe(e pid1.Event) {
	if level := l.levelOf(e); level >= l.level {
		l.write(l.queue, level, e)
	}
}

// lossLine tells a destination how many lines it missed.
func (l *Lines) lossLine(lost uint64) []byte {
	var b bytes.Buffer
	l.write(&b, zerolog.WarnLevel, pid1.Event{
		Kind: pid1.Warned,
		Text: fmt.Sprintf("%s could not write %d lines of its own here", l.product, lost),
	})
	return b.Bytes()
}

// write gives w the line in one call.
func (l *Lines) write(w io.Writer, level zerolog.Level, e pid1.Event) {
	at := e.Time
	if at.IsZero() {
		at = time.Now()
	}
	stamp, message := at.UTC().Format(timeFormat), clean(l.words(e))
	var stack []string
	if e.Kind == pid1.HungAt {
		stack = frames(e.Text)
	}
	if l.opts.JSON {
		log := zerolog.New(w)
		line := log.WithLevel(level).Str("time", stamp).Str("event", kindName(e.Kind))
		if l.ofWorker(e) {
			line.Int("worker", e.Worker)
		}
		if stack != nil {
			line.Str("stack", strings.Join(stack, "\n"))
		}
		fields(line, e).Msg(message)
		return
	}
	// zerolog's ConsoleWriter renders JSON, parses it and renders that again.
	line := make([]byte, 0, 256)
	if l.opts.Debug || l.opts.Timestamps {
		line = append(append(line, stamp...), " - "...)
	}
	if color := color(level); l.opts.Color && color != "" {
		line = append(append(append(line, color...), level.String()...), "\x1b[39m"...)
	} else {
		line = append(line, level.String()...)
	}
	line = append(append(line, ": "...), message...)
	if l.ofWorker(e) {
		line = fmt.Appendf(line, " (worker %d)", e.Worker)
	}
	for _, frame := range stack {
		line = append(append(line, "\n    "...), frame...)
	}
	line = append(line, '\n')
	_, _ = w.Write(line) // a queue counts what it could not write
}

// ofWorker tells whether the line names the process that it is about.
func (l *Lines) ofWorker(e pid1.Event) bool {
	switch e.Kind {
	case pid1.Reloading, pid1.Reloaded, pid1.Scaled, pid1.OrphanReaped, pid1.ZombieFound, pid1.OOMKilled, pid1.Stopped:
		return false // about all of them, or none
	case pid1.Noted, pid1.Warned, pid1.Signalled: // the others may be about all of them
		return e.Worker > 0 || l.opts.Workers && (e.PID != 0 || e.SentAs != 0)
	default:
		return e.Worker > 0 || l.opts.Workers
	}
}

// color is forever's for the level; the default foreground (39) ends it.
func color(level zerolog.Level) string {
	switch level {
	case zerolog.ErrorLevel:
		return "\x1b[31m"
	case zerolog.WarnLevel:
		return "\x1b[33m"
	case zerolog.InfoLevel:
		return "\x1b[32m"
	}
	return ""
}

// kindName is the event's name in JSON.
func kindName(k pid1.Kind) string {
	if k < 0 || int(k) >= len(kindNames) {
		return "unknown"
	}
	return kindNames[k]
}

var kindNames = [...]string{
	pid1.Preparing:       "preparing",
	pid1.Started:         "started",
	pid1.Ready:           "ready",
	pid1.Unready:         "unready",
	pid1.Exited:          "exited",
	pid1.SpawnFailed:     "spawn_failed",
	pid1.BackingOff:      "backing_off",
	pid1.Restarting:      "restarting",
	pid1.GaveUp:          "gave_up",
	pid1.Stopping:        "stopping",
	pid1.Draining:        "draining",
	pid1.Drained:         "drained",
	pid1.HungAt:          "hung_at",
	pid1.Reloading:       "reloading",
	pid1.Replaced:        "replaced",
	pid1.Reloaded:        "reloaded",
	pid1.Scaled:          "scaled",
	pid1.Signalled:       "signalled",
	pid1.SignalSent:      "signal_sent",
	pid1.Killed:          "killed",
	pid1.LeftoversEnding: "leftovers_ending",
	pid1.LeftoversStuck:  "leftovers_stuck",
	pid1.OrphanReaped:    "orphan_reaped",
	pid1.ZombieFound:     "zombie_found",
	pid1.OOMKilled:       "oom_killed",
	pid1.StatusTold:      "status_told",
	pid1.Noted:           "noted",
	pid1.Warned:          "warned",
	pid1.Stopped:         "stopped",
}

// JSON gives the line that the event has in the format json, whether or not it is
// written.
func (l *Lines) JSON(e pid1.Event) []byte {
	as := *l
	as.opts.JSON = true
	var b bytes.Buffer
	as.write(&b, as.levelOf(e), e)
	return b.Bytes()
}

// fields adds what the event's kind has, and neither argv nor environment.
func fields(f *zerolog.Event, e pid1.Event) *zerolog.Event {
	if e.PID != 0 {
		f.Int("pid", e.PID)
	}
	if e.Reason != "" {
		f.Str("reason", string(e.Reason))
	}
	switch e.Kind {
	case pid1.Exited, pid1.OrphanReaped:
		if e.Exit.Unknown {
			f.Str("code", "unknown")
			break
		}
		f.Int("code", e.Exit.Status())
		if e.Exit.Signal != 0 {
			f.Str("signal", signals.Name(e.Exit.Signal))
		}
	case pid1.SpawnFailed:
		f.Int("code", e.Exit.Code)
	case pid1.GaveUp, pid1.Stopped:
		f.Int("code", e.Code)
	case pid1.Restarting, pid1.Replaced:
		f.Int("restarts", e.Restarts)
	case pid1.Reloaded:
		f.Str("result", string(e.Result)).Int64("duration_ms", e.Uptime.Milliseconds())
	case pid1.BackingOff:
		f.Int64("backoff_ms", e.Backoff.Milliseconds())
	case pid1.Stopping:
		if e.Drain > 0 {
			f.Int64("drain_ms", e.Drain.Milliseconds())
		}
	case pid1.ZombieFound:
		f.Int("parent_pid", e.ParentPID)
	case pid1.Signalled:
		f.Int("sender_pid", e.SenderPID).Int("sender_uid", e.SenderUID)
	}
	if e.Kind == pid1.OOMKilled || e.Kind == pid1.Scaled {
		f.Int("count", e.Count)
	}
	if e.Kind == pid1.Exited && e.Exit.PeakMemory > 0 {
		f.Int64("peak_bytes", e.Exit.PeakMemory)
	}
	if e.Kind == pid1.Exited || e.Kind == pid1.Ready {
		f.Int64("uptime_ms", e.Uptime.Milliseconds())
	}
	if e.Signal != 0 {
		f.Str("signal", signals.Name(e.Signal))
	}
	if e.SentAs != 0 {
		f.Str("sent_as", signals.Name(e.SentAs))
	}
	return f
}

// levelOf is the table in the comment of Lines.
func (l *Lines) levelOf(e pid1.Event) zerolog.Level {
	switch e.Kind {
	case pid1.Exited, pid1.Restarting:
		clean := e.Exit.Status() == 0
		if !l.opts.Forever && (clean || asked(e.Reason)) {
			return zerolog.InfoLevel
		}
		return zerolog.ErrorLevel
	case pid1.GaveUp:
		if !l.opts.Forever && e.Code == 0 {
			return zerolog.InfoLevel
		}
		return zerolog.ErrorLevel
	case pid1.SpawnFailed:
		return zerolog.ErrorLevel
	case pid1.Reloaded:
		if e.Result == pid1.ReloadOK {
			return zerolog.InfoLevel
		}
		return zerolog.ErrorLevel
	case pid1.Stopping:
		if l.opts.Forever && e.Reason == pid1.ReasonWatch {
			return zerolog.ErrorLevel
		}
		return zerolog.InfoLevel
	case pid1.Killed, pid1.LeftoversStuck, pid1.ZombieFound, pid1.Warned, pid1.HungAt:
		return zerolog.WarnLevel
	case pid1.Signalled:
		if e.Signal == syscall.SIGWINCH {
			return zerolog.TraceLevel
		}
		return zerolog.InfoLevel
	case pid1.Started, pid1.Unready:
		// The pid of each run is of use where lines are read by programs.
		if l.opts.JSON && !l.opts.Forever {
			return zerolog.InfoLevel
		}
		return zerolog.DebugLevel
	case pid1.OOMKilled:
		if e.PID != 0 && e.Count == 1 {
			return zerolog.DebugLevel // the line of its exit says it
		}
		return zerolog.WarnLevel
	case pid1.BackingOff, pid1.LeftoversEnding, pid1.SignalSent, pid1.Drained, pid1.Noted,
		pid1.Reloading, pid1.Replaced, pid1.Scaled:
		return zerolog.InfoLevel
	default:
		return zerolog.DebugLevel
	}
}

// asked says that somebody wanted the run to end.
func asked(r pid1.Reason) bool {
	return r == pid1.ReasonRequest || r == pid1.ReasonReload || r == pid1.ReasonWatch
}

// words is what the line says. Sentences about an exit and a restart are
// forever's, to the letter.
func (l *Lines) words(e pid1.Event) string {
	switch e.Kind {
	case pid1.Preparing:
		return fmt.Sprintf("%s started the command of --before with pid: %d", l.product, e.PID)
	case pid1.Started:
		return fmt.Sprintf("%s started script with pid: %d", l.product, e.PID)
	case pid1.Ready:
		return fmt.Sprintf("%s detected script is ready after %s", l.product, round(e.Uptime))
	case pid1.Unready:
		return with(l.product+" detected script is not ready any more", e.Text)
	case pid1.Exited:
		if e.Exit.Signal != 0 {
			return fmt.Sprintf("%s detected script was killed by signal: %s", l.product, signals.Name(e.Exit.Signal)) + l.because(e)
		}
		if e.Exit.Unknown {
			return l.product + " detected script exited with code: unknown"
		}
		return fmt.Sprintf("%s detected script exited with code: %d", l.product, e.Exit.Code) + l.because(e)
	case pid1.SpawnFailed:
		return with(l.product+" detected script did not start", reason(e))
	case pid1.BackingOff:
		return fmt.Sprintf("%s waits %s before restarting script", l.product, round(e.Backoff))
	case pid1.Restarting:
		return fmt.Sprintf("%s restarting script for %d time", l.product, e.Restarts)
	case pid1.GaveUp:
		return with(l.product+" gives up on script", e.Text) + fmt.Sprintf("; exit code: %d", e.Code)
	case pid1.Stopping:
		switch {
		case e.Drain > 0 && e.Signal != 0:
			return fmt.Sprintf("%s stopping script because of %s when it has drained for %s", l.product, signals.Name(e.Signal), round(e.Drain))
		case e.Drain > 0:
			return fmt.Sprintf("%s stopping script when it has drained for %s", l.product, round(e.Drain))
		case e.Signal != 0:
			return fmt.Sprintf("%s stopping script because of %s", l.product, signals.Name(e.Signal))
		case e.Reason == pid1.ReasonWatchdog:
			return l.product + " stopping script because it did not say WATCHDOG=1 in time"
		case e.Text != "" && l.opts.Forever:
			return "restarting script because " + e.Text // forever's words about a watch
		case e.Text != "":
			return l.product + " restarting script because " + e.Text
		}
		return l.product + " stopping script"
	case pid1.Draining:
		return l.product + " lets script finish what it has begun"
	case pid1.Drained:
		return fmt.Sprintf("%s has let script drain, and sends it %s", l.product, signals.Name(e.SentAs))
	case pid1.HungAt:
		return l.product + " detected where script hangs"
	case pid1.Reloading:
		if e.Text == "" {
			return l.product + " reloading script"
		}
		return l.product + " reloading script because " + e.Text
	case pid1.Replaced:
		return fmt.Sprintf("%s replaced script by a new process with pid: %d", l.product, e.PID)
	case pid1.Reloaded:
		return l.reloaded(e)
	case pid1.Scaled:
		return fmt.Sprintf("%s scaling script to instances: %d", l.product, e.Count)
	case pid1.Signalled:
		return fmt.Sprintf("%s received %s from %s, %s", l.product, signals.Name(e.Signal), sender(e), fate(e))
	case pid1.SignalSent:
		return fmt.Sprintf("%s sent %s to script because %s", l.product, signals.Name(e.Signal), e.Text)
	case pid1.Killed:
		return fmt.Sprintf("%s killed script by signal: %s", l.product, signals.Name(e.Signal))
	case pid1.LeftoversEnding:
		return with(l.product+" ending what script left behind", e.Text)
	case pid1.LeftoversStuck:
		return with(l.product+" could not end what script left behind", e.Text)
	case pid1.OrphanReaped:
		return fmt.Sprintf("%s reaped an orphan with pid: %d", l.product, e.PID)
	case pid1.ZombieFound:
		return fmt.Sprintf("%s found a zombie: pid %d is dead and its parent %s (pid %d) does not reap it", l.product, e.PID, e.Name, e.ParentPID)
	case pid1.OOMKilled:
		if e.Count == 1 {
			return "a process of this container was killed for want of memory"
		}
		return fmt.Sprintf("%d processes of this container were killed for want of memory", e.Count)
	case pid1.Noted:
		return e.Text
	case pid1.StatusTold:
		return with("status of script", e.Text)
	case pid1.Warned:
		return reason(e)
	case pid1.Stopped:
		return fmt.Sprintf("%s ends with exit code: %d", l.product, e.Code)
	}
	return fmt.Sprintf("%s: event %d", l.product, e.Kind)
}

// reloaded is how a reload ended.
func (l *Lines) reloaded(e pid1.Event) string {
	why := ""
	if e.Err != nil {
		why = e.Err.Error()
	}
	switch e.Result {
	case pid1.ReloadOK:
		return fmt.Sprintf("%s reloaded script in %s", l.product, round(e.Uptime))
	case pid1.ReloadRolledBack:
		return with(l.product+" rolled the reload of script back, which goes on as it was", why)
	case pid1.ReloadRefused:
		return with(l.product+" refused to reload script", why)
	default:
		return with(l.product+" could not reload script", why)
	}
}

// because names a cause that the sentence before it does not give away. forever
// knew of none.
func (l *Lines) because(e pid1.Event) string {
	switch e.Reason {
	case pid1.ReasonExit, pid1.ReasonSignal, pid1.ReasonRequest, "":
		return ""
	}
	if l.opts.Forever {
		return ""
	}
	text := " (" + string(e.Reason)
	if e.Reason == pid1.ReasonOOM {
		text += ": it used " + mib(e.Exit.PeakMemory) + " at its peak"
		if e.Death != nil && e.Death.MemoryLimit > 0 {
			text += ", the limit is " + mib(e.Death.MemoryLimit)
		}
	}
	return text + ")"
}

// mib is a number of bytes for a person.
func mib(bytes int64) string { return strconv.FormatInt(bytes>>20, 10) + " MiB" }

func with(what, more string) string {
	if more == "" {
		return what
	}
	return what + ": " + more
}

func reason(e pid1.Event) string {
	switch {
	case e.Err == nil:
		return e.Text
	case e.Text == "":
		return e.Err.Error()
	}
	return e.Text + ": " + e.Err.Error()
}

func sender(e pid1.Event) string {
	switch {
	case e.FromTerminal:
		return "the terminal"
	case e.FromKernel:
		return "the kernel"
	case e.SenderPID == 0:
		return "outside this pid namespace" // a container runtime, the kubelet
	}
	return fmt.Sprintf("pid %d (uid %d)", e.SenderPID, e.SenderUID)
}

func fate(e pid1.Event) string {
	switch e.SentAs {
	case e.Signal:
		if e.FromTerminal {
			return "which the script has got, too"
		}
		return "forwarded"
	case 0:
		return "not forwarded"
	}
	return "forwarded as " + signals.Name(e.SentAs)
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// frames gives the lines of a stack, the innermost first: as many as fit into a
// message.
func frames(stack string) []string {
	list, room := []string{}, maxMessage
	for line := range strings.Lines(stack) {
		line = clean(strings.TrimSpace(line))
		if room -= len(line) + len("\n    "); room < 0 {
			break
		}
		list = append(list, line)
	}
	return list
}

// clean makes one line of what came from outside: a status or an error with
// control characters forges no second line and moves no cursor.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) <= maxMessage {
		return s
	}
	end := maxMessage
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
