package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"evermore/logs"
	"evermore/nearest"
)

// programName is what evermore calls itself: "forever" through a link of that
// name, whose users and scripts know forever's words, else "evermore".
func programName(argv []string) string {
	if len(argv) > 0 && filepath.Base(argv[0]) == "forever" {
		return "forever"
	}
	return "evermore"
}

// warnings are forever's two about a script that spins: only its own door has
// these defaults, and who has chosen a value knows.
func (s *settings) warnings() []string {
	if s.form == container {
		return nil
	}
	var list []string
	ms := s.app.Policy.MinUptime.Milliseconds()
	if !s.isGiven("min-uptime") {
		list = append(list, fmt.Sprintf("--minUptime not set. Defaulting to: %dms", ms))
	}
	if !s.isGiven("spin-sleep-time") && ms > 0 {
		list = append(list, fmt.Sprintf("--spinSleepTime not set. Your script will exit if it does not stay up for at least %dms", ms))
	}
	return list
}

// stopSlack is what a stop may take beside draining and ending the app: its
// leftovers have a second, and then there is what is still to be written.
const stopSlack = 2 * time.Second

// lateStop warns of a stop that somebody else may cut short by killing evermore,
// and the app with it.
func (s *settings) lateStop() []string {
	drain, kill := s.app.DrainWait, s.app.KillTimeout
	if s.grace == 0 || kill != 0 && drain+kill+stopSlack <= s.grace {
		return nil
	}
	takes := fmt.Sprintf("may take %s", drain+kill+stopSlack)
	if kill == 0 {
		takes = "has no end"
	}
	return []string{fmt.Sprintf("a stop %s (--drain-wait %s, --kill-timeout %s, %s for the rest), and --grace is %s: "+
		"let them fit in, or say by --grace when a kill comes (Kubernetes: terminationGracePeriodSeconds; docker stop -t)", takes, drain, kill, stopSlack, s.grace)}
}

// misspeltLetters is how long a name must be, behind EVERMORE_, that a letter or
// two may be wrong in it: short ones are too near to each other.
const misspeltLetters = 6

// misspelt warns of variables that are an option's but for their underscores, their
// case (EVERMORE_MINUPTIME) or a letter or two. Other unknown ones are somebody
// else's: a Service called evermore brings many.
func misspelt(environ []string) []string {
	const prefix = "EVERMORE_"
	bare := func(name string) string { return strings.ReplaceAll(name, "_", "") }
	known, right := map[string]bool{}, map[string]string{}
	var names []string
	for i := range table {
		if name := table[i].env(); name != "" {
			known[name], right[bare(name)] = true, name
			names = append(names, strings.TrimPrefix(name, prefix))
		}
	}
	var list []string
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		if known[name] {
			continue
		}
		to := right[bare(strings.ToUpper(name))]
		if rest, ok := strings.CutPrefix(name, prefix); to == "" && ok && len(rest) >= misspeltLetters {
			if near := nearest.Nearest(rest, names); near != "" {
				to = prefix + near
			}
		}
		if to != "" {
			list = append(list, fmt.Sprintf("the variable %s means nothing: did you mean %s?", name, to))
		}
	}
	return list
}

// level is the kind of a line, as forever heads it; what the supervisor itself
// tells later is package logs'.
type level string

const (
	levelError level = "error"
	levelWarn  level = "warn"
	levelHelp  level = "help"
	levelInfo  level = "info"
	levelData  level = "data"
)

// colour is forever's for the level, as an ANSI code.
func (l level) colour() string {
	switch l {
	case levelError:
		return "31"
	case levelWarn:
		return "33"
	case levelInfo:
		return "32"
	case levelData:
		return "90"
	}
	return "36"
}

// line is one line of evermore's own: its text begins in column 10.
func line(l level, text string, coloured bool) string {
	padding := strings.Repeat(" ", max(8-len(l), 1))
	if coloured {
		return "\x1b[" + l.colour() + "m" + string(l) + "\x1b[39m:" + padding + text + "\n"
	}
	return string(l) + ":" + padding + text + "\n"
}

// say writes a line to stderr for each line of the text. A stderr that can't be
// written has nobody to tell.
func (s *settings) say(l level, text string) {
	coloured := s.coloured(2)
	var b strings.Builder
	for one := range strings.SplitSeq(text, "\n") {
		b.WriteString(line(l, one, coloured))
	}
	// A stderr that nobody reads must not hold up evermore, which may be PID 1.
	conn, err := os.Stderr.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		q := logs.NewQueue(int(fd))
		_, _ = q.Write([]byte(b.String()))
		q.Close(flushTime)
	})
}

// tell writes the lines of an answer to stdout, and errors to stderr, as forever
// did up to its version 3.
func (s *settings) tell(l level, text string) {
	if l == levelError {
		s.say(l, text)
		return
	}
	coloured := s.coloured(1)
	var b strings.Builder
	for one := range strings.SplitSeq(text, "\n") {
		b.WriteString(line(l, one, coloured))
	}
	_, _ = os.Stdout.WriteString(b.String())
}

// capital is the name of the program in a sentence of forever's.
func capital(program string) string { return strings.ToUpper(program[:1]) + program[1:] }

// coloured tells whether what is written to a descriptor is to be coloured: as
// --colors or --no-colors says, else on a terminal, unless NO_COLOR is set
// (https://no-color.org).
//
// It takes a number, since os.File.Fd would make a shared descriptor blocking.
func (s *settings) coloured(fd int) bool {
	if s.isGiven("colors") {
		return s.colors
	}
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(fd)
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}
