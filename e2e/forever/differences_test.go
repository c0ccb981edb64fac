package forever_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// differences is the file testdata/differences: what evermore says where forever
// says something else. It is a list of reasons, each a comment, and below each
// the rules that it is the reason for:
//
//	# The reason.
//	[VERSION...] SESSION: COMMAND
//	- what forever says
//	+ what evermore says
//
// Session and command may be missing: the rule is for all of them. The lines are
// those of the recordings. In them, {name} stands for the rest of a line or a
// part of it and means the same below "+"; a line "- ..." for any lines. A rule
// holds wherever in a step its lines are; lines without "-" are added to the
// step. "as VERSION" instead of lines: it says what that other version says.
type differences []*difference

type difference struct {
	versions         []string
	session, command string // empty: any
	as               string
	from, to         []string
	pattern          *regexp.Regexp
	line             int
	used             map[string]bool // by version
}

func readDifferences(t *testing.T) differences {
	t.Helper()
	data, err := os.ReadFile("testdata/differences")
	if err != nil {
		t.Fatal(err)
	}
	list, err := parseDifferences(string(data))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

var rule = regexp.MustCompile(`^\[([\d. ]+)\](?: ([\w-]+)(?:: (.+))?)?$`)

func parseDifferences(text string) (differences, error) {
	var list differences
	reasoned := false
	for i, line := range strings.Split(text, "\n") {
		if m := rule.FindStringSubmatch(line); m != nil && reasoned {
			list = append(list, &difference{
				versions: strings.Fields(m[1]), session: m[2], command: m[3],
				line: i + 1, used: map[string]bool{},
			})
			continue
		}
		mark, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "":
		case mark == "#":
			reasoned = true
		case len(list) == 0:
			return nil, fmt.Errorf("differences:%d: neither a reason nor a rule for one: %s", i+1, line)
		case mark == "-":
			d := list[len(list)-1]
			d.from = append(d.from, rest)
		case mark == "+":
			d := list[len(list)-1]
			d.to = append(d.to, rest)
		case mark == "as":
			list[len(list)-1].as = rest
		default:
			return nil, fmt.Errorf("differences:%d: no rule: %s", i+1, line)
		}
	}
	for _, d := range list {
		if (d.as == "") == (len(d.from)+len(d.to) == 0) {
			return nil, fmt.Errorf("%v: it needs either lines or another version", d)
		}
		d.pattern = pattern(d.from)
	}
	return list, nil
}

func (d *difference) String() string {
	return fmt.Sprintf("differences:%d: %v %s: %s", d.line, d.versions, d.session, d.command)
}

var placeholder = regexp.MustCompile(`\{[a-z]+\}`)

// pattern gives what matches the lines below "-".
func pattern(lines []string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString("(?m)")
	for _, line := range lines {
		if line == "..." {
			b.WriteString(`(?:^.*\n)*?`)
			continue
		}
		b.WriteString("^")
		rest := line
		for {
			at := placeholder.FindStringIndex(rest)
			if at == nil {
				break
			}
			b.WriteString(regexp.QuoteMeta(rest[:at[0]]) + "(?P<" + rest[at[0]+1:at[1]-1] + ">.*?)")
			rest = rest[at[1]:]
		}
		b.WriteString(regexp.QuoteMeta(rest) + `\n`)
	}
	return regexp.MustCompile(b.String())
}

// apply gives the lines of a step as evermore is to say them.
func (d *difference) apply(lines []string) []string {
	text := strings.Join(lines, "\n") + "\n"
	var to strings.Builder
	for _, line := range d.to {
		line = strings.ReplaceAll(line, "$", "$$")
		to.WriteString(placeholder.ReplaceAllStringFunc(line, func(p string) string { return "$" + p }) + "\n")
	}
	if len(d.from) == 0 {
		text += strings.ReplaceAll(to.String(), "$$", "$")
	} else {
		text = d.pattern.ReplaceAllString(text, to.String())
	}
	said := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	// A line that went to the other stream stands there after what was there.
	slices.SortStableFunc(said, func(a, b string) int { return strings.Compare(stream(a), stream(b)) })
	return said
}

func stream(line string) string {
	if strings.HasPrefix(line, "1>") || strings.HasPrefix(line, "2>") {
		return line[:1]
	}
	return "3"
}

// expected gives what evermore is to say in a session: what a version of forever
// has said, with the differences.
func (list differences) expected(version, session string) (transcript, error) {
	said, err := recorded(version, session)
	if err != nil {
		return nil, err
	}
	for i := range said {
		said[i].lines, err = list.step(version, session, i, said[i])
		if err != nil {
			return nil, err
		}
	}
	return said, nil
}

// step gives the lines of the i-th step of a session.
func (list differences) step(version, session string, i int, s step) ([]string, error) {
	lines := s.lines
	for _, d := range list {
		if !slices.Contains(d.versions, version) ||
			d.session != "" && d.session != session ||
			d.command != "" && d.command != s.command {
			continue
		}
		if d.as != "" {
			other, err := recorded(d.as, session)
			if err != nil {
				return nil, err
			}
			if slices.Equal(other[i].lines, s.lines) {
				return nil, fmt.Errorf("%v: both versions say the same", d)
			}
			d.used[version] = true
			return list.step(d.as, session, i, other[i])
		}
		if said := d.apply(lines); !slices.Equal(said, lines) {
			d.used[version] = true
			lines = said
		}
	}
	return lines, nil
}

// unused gives the rules that hold nowhere, of some version.
func (list differences) unused() []error {
	var all []error
	for _, d := range list {
		for _, version := range d.versions {
			if !d.used[version] {
				all = append(all, fmt.Errorf("%v: forever %s never says this", d, version))
			}
		}
	}
	return all
}
