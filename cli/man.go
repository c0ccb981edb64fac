package cli

import "strings"

// manAction prints the manual page, made of the tables that make the help.
func (s *settings) manAction(args []string) (int, error) {
	if len(args) > 0 {
		return 0, usage("man takes no argument: %q", args[0])
	}
	return 0, s.print(manPage())
}

// manPage is the page in the macros of man(7).
func manPage() string {
	var b strings.Builder
	line := func(text string) { b.WriteString(text + "\n") }
	text := func(t string) {
		t = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(t)
		if strings.HasPrefix(t, ".") || strings.HasPrefix(t, "'") {
			t = `\&` + t
		}
		line(t)
	}
	entry := func(name, about string) {
		line(".TP")
		b.WriteString(".B ")
		text(name)
		text(about)
	}
	line(`.TH EVERMORE 1 "" "evermore" "User Commands"`)
	line(".SH NAME")
	text("evermore - keeps an app alive: starts it again when it ends, and tells why it ended")
	line(".SH SYNOPSIS")
	for _, form := range []string{
		"evermore [options] SCRIPT [script-options]", "evermore [options] -- COMMAND [ARG...]", "evermore ACTION [options] [TARGET...]",
	} {
		text(form)
		line(".br")
	}
	line(".SH DESCRIPTION")
	text("The first form runs node SCRIPT in the foreground, the second any command: it is the ENTRYPOINT of a container. " +
		"Options end at SCRIPT or at --. The actions are those of forever, and more.")
	line(".SH ACTIONS")
	for _, a := range actions() {
		entry(strings.TrimSpace(a.name+" "+a.args), a.help+".")
		for _, o := range a.rows() {
			if o.group != "" {
				continue // an option of a run
			}
			line(".RS")
			entry(strings.TrimSpace(o.synopsis()), strings.TrimSpace(o.help+" "+o.bracket()))
			line(".RE")
		}
	}
	entry("health [--http ADDRESS] [--live|--ready]", "ask a running evermore: exit code 0 or 1.")
	entry("completion bash|zsh|fish", "print the completion script of a shell.")
	line(".SH TARGETS")
	text("A TARGET is the first of these that an app matches: the path of its script, its id, its index in evermore list, its uid, its pid, the pid of its supervisor.")
	line(".SH OPTIONS")
	text("TIME is in milliseconds (1500) or has a unit (1.5s, 2m). SIZE is in bytes or has a unit (300M). " +
		"Defaults are in brackets: one for both forms, or [-- COMMAND | SCRIPT].")
	group := ""
	for i := range table {
		o := &table[i]
		if o.group != group {
			group = o.group
			line(".SS " + group)
		}
		entry(strings.TrimSpace(o.synopsis()), strings.TrimSpace(o.help+" "+o.bracket()))
	}
	line(".SH ENVIRONMENT")
	text("Each option but --help and --version is a variable too: EVERMORE_MIN_UPTIME=10s is --min-uptime 10s. " +
		"An option wins over its variable, a variable over a file of apps, this over what evermore set has stored.")
	entry("EVERMORE_ROOT, FOREVER_ROOT", "evermore's own folder, else ~/.evermore.")
	line(".SH FILES")
	entry("~/.evermore/UID.log", "the log of a daemon.")
	entry("~/.evermore/pids/UID.pid", "the pid of its app.")
	entry("~/.evermore/config.json", "what evermore set and columns have stored.")
	entry("~/.evermore/run, ~/.evermore/sock", "the register of what runs, and the control sockets.")
	line(".SH EXIT STATUS")
	text("The app's own in the foreground: 128+n when signal n killed it, 126 or 127 when it could not be run. " +
		"1: something needed can't be had, or a target was not found. 2: the command line is wrong. 255: SCRIPT does not exist, or its log file does.")
	line(".SH SEE ALSO")
	text("node(1), systemd.service(5), sd_notify(3)")
	return b.String()
}
