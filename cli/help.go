package cli

import (
	"strings"
)

const (
	helpWidth  = 100
	helpColumn = 30 // where the text of an option begins
)

// helpText is the answer to --help.
func (s *settings) helpText() string {
	h := help{bold: s.coloured(1)}
	p := s.program
	h.text(0, p+" keeps an app alive: it starts it again when it ends, and tells why it ended.")
	h.head("Usage")
	h.row(p+" [options] SCRIPT [script-options]", 52, "run node SCRIPT in the foreground")
	h.row(p+" [options] -- COMMAND [ARG...]", 52, "run any command: the ENTRYPOINT of a container")
	h.row(p+" ACTION [options] [TARGET...]", 52, "start and manage daemons, as forever does")
	h.row(p+" health [--http ADDRESS] [--live|--ready]", 52, "ask a running "+p+": exit code 0 or 1")
	h.row(p+" completion bash|zsh|fish", 52, "print the completion script of a shell")
	h.head("Examples")
	h.row(p+" start --uid web -w server.js", 0, "")
	h.row(p+" server.js", 0, "")
	h.row(p+" -m 5 --spin-sleep-time 1s -o out.log -e err.log server.js --port 3000", 0, "")
	h.row(p+` -c "node --enable-source-maps" server.js`, 0, "")
	h.row(p+" -- node server.js", 0, "")
	h.row(p+" --kill-timeout 25s --ready http://127.0.0.1:3000/health -- node server.js", 0, "")
	h.line("")
	h.text(0, "Options end at SCRIPT or at --; what follows is for the script or the command. TIME is in milliseconds"+
		" (1500) or has a unit (1.5s, 2m). Defaults are in brackets: one for both forms, or [-- COMMAND | SCRIPT].")
	h.head("Actions")
	for _, a := range actions() {
		h.row(strings.TrimSpace(a.name+" "+a.args), helpColumn, a.help)
	}
	h.text(2, p+" help ACTION shows what it takes. A TARGET is an index, uid, id, pid or script of "+p+" list.")
	h.options(table)
	h.head("Variables")
	h.text(2, "Each option but --help and --version is a variable too: EVERMORE_MIN_UPTIME=10s is --min-uptime 10s,"+
		" EVERMORE_APPEND=true is --append. An option wins over its variable, a variable over a file of apps, this over what "+p+" set has stored. forever's spelling means the same:"+
		" --minUptime.")
	h.head("Files")
	h.text(2, "A relative FILE is in the current folder. For SCRIPT, -l and --pid-file are in evermore's own folder,"+
		" as forever's are: EVERMORE_ROOT, FOREVER_ROOT or ~/.evermore, and where no such folder can be written"+
		" XDG_RUNTIME_DIR/evermore, /run/evermore or /dev/shm/evermore-UID.")
	h.head("Exit codes")
	h.row("the app's own", helpColumn, "128+n when signal n killed it; 126 or 127 when it could not be run")
	h.row("1", helpColumn, "no app is called so, or a file, an address or a right that is needed can't be had; nothing was started")
	h.row("2", helpColumn, "the command line is wrong")
	h.row("255", helpColumn, "SCRIPT does not exist, or its log file does")
	return h.String()
}

// healthHelp is the answer to health --help.
func (s *settings) healthHelp() string {
	h := help{bold: s.coloured(1)}
	p := s.program
	h.text(0, p+" health asks a running "+p+" by HTTP. It exits with 0 when the answer is yes, else with 1, and"+
		" says why in one line.")
	h.head("Usage")
	h.row(p+" ACTION [options] [TARGET...]", 52, "start and manage daemons, as forever does")
	h.row(p+" health [--http ADDRESS] [--live|--ready] [--timeout TIME]", 0, "")
	h.head("Examples")
	h.row(p+" health", 0, "")
	h.row(`HEALTHCHECK CMD ["/evermore", "health"]`, 0, "")
	h.row(p+" health --live --http 127.0.0.1:9000", 0, "")
	h.head("Options")
	h.options(healthTable)
	return h.String()
}

// help builds a text of at most helpWidth columns.
type help struct {
	strings.Builder
	bold bool
}

func (h *help) line(text string) { h.WriteString(text + "\n") }

func (h *help) head(text string) {
	if h.bold {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	h.line("\n" + text)
}

// text writes a paragraph from a column on.
func (h *help) text(column int, text string) {
	for _, line := range wrap(text, helpWidth-column) {
		h.line(strings.Repeat(" ", column) + line)
	}
}

// row writes a name and, from a column on, what it is.
func (h *help) row(name string, column int, text string) {
	name = "  " + name
	if text == "" {
		h.line(name)
		return
	}
	for _, line := range wrap(text, helpWidth-column) {
		h.line(name + strings.Repeat(" ", max(column-len(name), 1)) + line)
		name = ""
	}
}

// options writes the rows of a table under the heads of its groups.
func (h *help) options(table []option) {
	group := ""
	for i := range table {
		o := &table[i]
		if o.group != group {
			group = o.group
			h.head(group)
		}
		h.row(o.synopsis(), helpColumn, strings.TrimSpace(o.help+" "+o.bracket()))
	}
}

// synopsis is how an option is written: "-m, --max N".
func (o *option) synopsis() string {
	name := "--" + o.name
	if o.negated {
		name = "--[no-]" + o.name
	}
	if o.short != "" {
		name = "-" + o.short + ", " + name
	} else {
		name = "    " + name
	}
	if o.arg != "" {
		name += " " + o.arg
	}
	return name
}

// bracket is what the help says of the defaults.
func (o *option) bracket() string {
	c, s := o.defaultText(container), o.defaultText(script)
	switch {
	case c == "" && s == "":
		return ""
	case c == s, o.scriptOnly:
		return "[" + s + "]"
	}
	return "[" + c + " | " + s + "]"
}

// wrap breaks a text at its spaces, but not within brackets.
func wrap(text string, width int) []string {
	var lines []string
	line, word, depth := "", "", 0
	flush := func() {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
		word = ""
	}
	for _, r := range text {
		switch {
		case r == ' ' && depth == 0:
			flush()
			continue
		case r == '[':
			depth++
		case r == ']':
			depth--
		}
		word += string(r)
	}
	flush()
	return append(lines, line)
}
