package forever_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// normaliser takes out of what a session says all that differs from run to run:
// paths, pids, uids given at random, uptimes, and the padding of tables, whose
// columns are as wide as those. forever's help is one line. What node itself says of forever's old modules
// goes too, and where in them something was thrown.
type normaliser struct {
	paths           *strings.Replacer
	spaces, colours bool // are kept
}

func newNormaliser(dir, forever, text string) (normaliser, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return normaliser{}, err
	}
	real, err := filepath.EvalSymlinks(node)
	if err != nil {
		return normaliser{}, err
	}
	paths := []string{
		filepath.Join(dir, "work"), "$WORK",
		filepath.Join(dir, "home"), "$HOME",
		filepath.Join(dir, "root"), "$ROOT",
		filepath.Join(dir, "bin", "node"), "$NODE",
		node, "$NODE",
		real, "$NODE",
	}
	if install, _, ok := strings.Cut(forever, "/node_modules/"); ok {
		paths = append(paths, install, "$MODULES")
	}
	return normaliser{
		paths:   strings.NewReplacer(paths...),
		spaces:  strings.Contains(text, "keep spaces\n"),
		colours: strings.Contains(text, "keep colours\n"),
	}, nil
}

func (n normaliser) step(o outcome) step {
	s := step{command: o.Command}
	for _, line := range n.lines(o.Stdout) {
		s.lines = append(s.lines, "1> "+line)
	}
	for _, line := range n.lines(o.Stderr) {
		s.lines = append(s.lines, "2> "+line)
	}
	if o.Hangs {
		s.lines = append(s.lines, "hangs")
	} else {
		s.lines = append(s.lines, "exit "+strconv.Itoa(o.Code))
	}
	return s
}

var (
	colour = regexp.MustCompile("\x1b\\[([0-9;]*)m")
	help   = regexp.MustCompile(`(?m)(^help: {4}.*\n?){20,}`)
	// noise is what node adds: warnings, and the trace and version below an error
	// that nobody caught.
	noise = regexp.MustCompile(`^(data: {4}.+:\d+ - )?(\(node:\d+\) |\(Use .node --trace)|^    at .*[:(<]|^Node\.js v\d`)
	// source is a place in a module.
	source    = regexp.MustCompile(`(\$MODULES|node:internal)[^\s:']*(:\d+)*`)
	timestamp = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`)
	uptime    = regexp.MustCompile(`\d+:\d+:\d+:[\d.]+(e-\d+)?`)
	// ownFile is a file named for a uid that was given at random.
	ownFile    = regexp.MustCompile(`(\$ROOT/(?:pids/)?)[\w-]{4}\.(log|pid)`)
	tailed     = regexp.MustCompile(`^(data: {4}.+?):\d+ - `)
	supervisor = regexp.MustCompile(`\bsupervisor \d+`)
	header     = regexp.MustCompile(`^((?:data: {4})?) {4}((?:[a-z]+ +)+)$`)
	row        = regexp.MustCompile(`^((?:data: {4})?)(\[\d+\] )(.*)$`)
	blanks     = regexp.MustCompile(` +`)
	random     = regexp.MustCompile(`^[\w-]{4}$`)
	number     = regexp.MustCompile(`^\d+$`)
)

func (n normaliser) lines(text string) []string {
	if text == "" {
		return nil
	}
	if n.colours {
		text = colour.ReplaceAllString(text, `\e[${1}m`)
	} else {
		text = colour.ReplaceAllString(text, "")
	}
	text, ended := strings.CutSuffix(n.paths.Replace(text), "\n")
	text = help.ReplaceAllString(text, "<help>")
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if !noise.MatchString(line) {
			lines = append(lines, n.line(line))
		}
	}
	if !ended && len(lines) > 0 {
		lines[len(lines)-1] += " <no newline>"
	}
	return lines
}

func (n normaliser) line(line string) string {
	line = source.ReplaceAllString(line, "<source>")
	line = timestamp.ReplaceAllString(line, "<time>")
	line = uptime.ReplaceAllString(line, "<uptime>")
	line = ownFile.ReplaceAllString(line, "$1<uid>.$2")
	line = supervisor.ReplaceAllString(line, "supervisor <pid>")
	line = tailed.ReplaceAllString(line, "$1:<pid> - ")
	if n.spaces {
		return line
	}
	if m := header.FindStringSubmatch(line); m != nil {
		return m[1] + "    " + blanks.ReplaceAllString(m[2], " ")
	}
	if m := row.FindStringSubmatch(line); m != nil {
		cells := strings.Split(blanks.ReplaceAllString(m[3], " "), " ")
		for i, cell := range cells {
			switch {
			case number.MatchString(cell):
				cells[i] = "<pid>"
			case i == 0 && random.MatchString(cell):
				cells[i] = "<uid>"
			}
		}
		return m[1] + m[2] + strings.Join(cells, " ")
	}
	return line
}
