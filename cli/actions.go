package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"evermore/control"
)

// action is a word that asks for something else than a run, when it is the first
// that is no option.
type action struct {
	name    string
	args    string // what stands behind it
	help    string
	options []string // that it takes, beside those that every action takes
	table   []option // options of its own, in place of those of the same name
	// run does it and gives the exit code; an error is told, and ends with its own.
	run func(*settings, []string) (int, error)
	// targets says that its arguments are apps of list.
	targets bool
}

// actionTable is every option of the actions alone.
var actionTable = []option{
	{
		name: "json", flagOnly: true,
		help: "answer in JSON",
		on:   func(s *settings) *bool { return &s.answer.json },
	},
	{
		name: "number", short: "n", arg: "N", flagOnly: true,
		help:  "show the last N lines, or deaths",
		set:   func(s *settings, v string) (err error) { s.answer.lines, err = parseCount(v); return },
		shown: both("loglength of config, 100; 10 deaths"),
	},
	{
		name: "fifo", short: "f", flagOnly: true,
		help: "go on with what is added; --follow is the same",
		on:   func(s *settings) *bool { return &s.answer.follow },
	},
	{
		name: "out", flagOnly: true,
		help: "show the file of -o",
		on:   func(s *settings) *bool { return &s.answer.out },
	},
	{
		name: "err", flagOnly: true,
		help: "show the file of -e",
		on:   func(s *settings) *bool { return &s.answer.err },
	},
	{
		name: "effective", flagOnly: true,
		help: "show the value of each option and where it comes from",
		on:   func(s *settings) *bool { return &s.answer.effective },
	},
	{
		name: "replace", flagOnly: true,
		help: "stop what runs under the same uid first",
		on:   func(s *settings) *bool { return &s.answer.replace },
	},
	{
		name: "env", arg: "NAME", flagOnly: true,
		help: "take env_NAME of an ecosystem file, too",
		set:  func(s *settings, v string) error { return setText(&s.answer.env, v) },
	},
}

// everyAction are the options that each action takes.
var everyAction = []string{"colors", "help", "version"}

// actions are all there are, in the order of the help. It is a function, since
// some of them show it.
func actions() []action {
	return []action{
		{name: "start", args: "SCRIPT [ARG...]", help: "run SCRIPT, or the apps of a JSON or ecosystem file, as daemons", run: (*settings).startAction, options: []string{"replace", "env"}},
		{name: "stop", args: "TARGET...", help: "stop apps: by index, uid, id, pid or script", run: (*settings).stopAction, targets: true, options: []string{"kill-signal"}},
		{name: "stopall", help: "stop all apps", run: (*settings).stopAllAction, options: []string{"kill-signal"}},
		{name: "stopbypid", args: "PID", help: "stop by a pid: deprecated by forever", run: (*settings).stopByPIDAction, targets: true},
		{name: "restart", args: "TARGET...", help: "restart apps", run: (*settings).restartAction, targets: true},
		{name: "restartall", help: "restart all apps", run: (*settings).restartAllAction},
		{name: "reload", args: "[TARGET...]", help: "replace the processes of apps: new before old where their ports are held; what is not ready in time is rolled back, with exit code 1", run: (*settings).reloadAction, targets: true},
		{name: "scale", args: "[TARGET...] N", help: "have N processes, 1 to 128 or max, of an app that was started with -i", run: (*settings).scaleAction, targets: true},
		{name: "list", help: "show all apps", run: (*settings).listAction, options: []string{"json"}},
		{name: "logs", args: "[TARGET...]", help: "show the logs of apps, or which there are", run: (*settings).logsAction, targets: true, options: []string{"number", "fifo", "out", "err"}},
		{name: "adopt", args: "[TARGET...]", help: "give apps whose supervisor was killed a new one, without interrupting them", run: (*settings).adoptAction, targets: true},
		{name: "signal", args: "SIGNAL TARGET...", help: "send apps a signal", run: (*settings).signalAction, targets: true},
		{name: "events", args: "[TARGET]", help: "show what happens to an app, as JSON, line by line", run: (*settings).eventsAction, targets: true},
		{name: "why", args: "[TARGET]", help: "show how an app has died, newest first, also when it does not run any more", run: (*settings).whyAction, targets: true, options: []string{"json", "number"}},
		{name: "config", help: "show the configuration", run: (*settings).configAction, options: []string{"json", "effective"}},
		{name: "set", args: "KEY VALUE", help: "set a default of an option, or loglength", run: (*settings).setAction},
		{name: "clear", args: "KEY", help: "forget it", run: (*settings).clearAction},
		{name: "columns", args: "add|rm|set|reset", help: "choose what list shows: " + strings.Join(columnNames(), ", "), run: (*settings).columnsAction},
		{name: "cleanlogs", help: "delete the logs of apps that are gone", run: (*settings).cleanLogsAction},
		{name: "save", help: "remember what runs, for resurrect", run: (*settings).saveAction},
		{name: "resurrect", help: "start what save remembered and does not run", run: (*settings).resurrectAction},
		{name: "startup", args: "[TARGET...]", help: "show systemd units for what runs", run: (*settings).startupAction, targets: true, table: startupTable()},
		{name: "install", args: "DEST", help: "copy this program to a folder or a file", run: (*settings).installAction},
		{name: "man", help: "print the manual page", run: (*settings).manAction},
		{name: "help", args: "[ACTION]", help: "show this, or what an action takes", run: (*settings).helpAction},
	}
}

// actionNamed finds an action; nil: there is none of that name.
func actionNamed(name string) *action {
	if name == "" || strings.ContainsAny(name, "/.") {
		return nil // most scripts
	}
	all := actions()
	for i := range all {
		if all[i].name == name {
			return &all[i]
		}
	}
	return nil
}

// rows are the options that the action takes.
func (a *action) rows() []option {
	rows := slices.Clone(a.table)
	takes := slices.Concat(a.options, everyAction)
	for _, list := range [][]option{actionTable, table} {
		for _, o := range list {
			if a.name == "start" && !slices.ContainsFunc(actionTable, func(x option) bool { return x.name == o.name }) || slices.Contains(takes, o.name) {
				rows = append(rows, o)
			}
		}
	}
	return rows
}

// flagSet is what the action reads: its own options, and all others, so that they
// are not taken for targets.
func (s *settings) flagSet(a *action) *pflag.FlagSet {
	set := pflag.NewFlagSet(a.name, pflag.ContinueOnError)
	set.SetOutput(nil)
	// Those of start end at the SCRIPT: what follows is its own.
	set.SetInterspersed(a.name != "start")
	own := a.rows()
	s.flags(set, own)
	for _, list := range [][]option{actionTable, table} {
		var others []option
		for _, o := range list {
			if !slices.ContainsFunc(own, func(x option) bool { return x.name == o.name }) {
				others = append(others, o)
			}
		}
		s.flags(set, others)
	}
	return set
}

// act does what the action word and what stands behind it ask for.
func (s *settings) act(a *action, args []string) (int, error) {
	set := s.flagSet(a)
	if err := set.Parse(args); err != nil {
		return 0, flagError(err, a.rows())
	}
	switch {
	case s.version:
		return 0, s.print(s.versionText())
	case s.help:
		return 0, s.print(s.actionHelp(a))
	}
	own := a.rows()
	for _, list := range [][]option{actionTable, table} {
		for i := range list {
			o := &list[i]
			if s.isGiven(o.name) && !slices.ContainsFunc(own, func(x option) bool { return x.name == o.name }) && s.program != "forever" {
				// forever's scripts have such options where they mean nothing.
				return 0, usage("%s does not go with %s", o.label(), a.name)
			}
		}
	}
	if a.name == "start" && set.ArgsLenAtDash() == 0 {
		return 0, usage("start is for a SCRIPT: %s start -c none ./program executes a program itself", s.program)
	}
	if err := control.Unused(); err != nil {
		s.say(levelWarn, err.Error())
	}
	return a.run(s, set.Args())
}

// actionCommands are the actions as cobra sees them, for the completion of shells.
func (s *settings) actionCommands() []*cobra.Command {
	var list []*cobra.Command
	for _, a := range actions() {
		cmd := &cobra.Command{Use: a.name, Short: a.help, Run: func(*cobra.Command, []string) {}}
		s.flags(cmd.Flags(), a.rows())
		s.offer(cmd, a.rows())
		cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			switch {
			case a.name == "start":
				return nil, cobra.ShellCompDirectiveDefault
			case a.targets:
				return s.targetNames(), cobra.ShellCompDirectiveNoFileComp
			case a.name == "columns":
				return append([]string{"add", "rm", "set", "reset"}, columnNames()...), cobra.ShellCompDirectiveNoFileComp
			case a.name == "help":
				return actionNames(), cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list = append(list, cmd)
	}
	return list
}

// targetNames are the uids of list, for the completion of shells.
func (s *settings) targetNames() []string {
	list, _ := s.apps()
	var names []string
	for _, a := range list {
		names = append(names, a.UID+"\t"+a.script())
	}
	return names
}

func actionNames() []string {
	var names []string
	for _, a := range actions() {
		names = append(names, a.name)
	}
	return names
}

// helpAction shows the help, or that of an action.
func (s *settings) helpAction(args []string) (int, error) {
	switch {
	case len(args) == 0:
		return 0, s.print(s.helpText())
	case len(args) == 1 && args[0] == "completion":
		return 0, s.print("usage: " + s.program + " completion " + strings.Join(shells, "|") + "\n")
	case len(args) == 1 && args[0] == "health":
		return 0, s.print(s.healthHelp())
	case len(args) == 1:
		if a := actionNamed(args[0]); a != nil {
			return 0, s.print(s.actionHelp(a))
		}
	}
	return 0, usage("there is no help for %q: actions are %s", strings.Join(args, " "), strings.Join(actionNames(), ", "))
}

// actionHelp is the answer to "list --help".
func (s *settings) actionHelp(a *action) string {
	h := help{bold: s.coloured(1)}
	h.text(0, s.program+" "+a.name+": "+a.help+".")
	h.head("Usage")
	h.row(strings.TrimSpace(s.program+" "+a.name+" [options] "+a.args), 0, "")
	if a.targets {
		h.head("Targets")
		h.text(2, "A TARGET is the first of these that an app matches: the path of its script, its id, its index in "+
			s.program+" list, its uid, its pid, the pid of its supervisor.")
	}
	rows := a.rows()
	if a.name == "start" {
		h.head("Options")
		for i := range rows {
			if !slices.ContainsFunc(table, func(o option) bool { return o.name == rows[i].name }) {
				h.row(rows[i].synopsis(), helpColumn, rows[i].help)
			}
		}
		h.line("")
		h.text(0, "and all options of a run: "+s.program+" --help shows them.")
		return h.String()
	}
	h.head("Options")
	for i := range rows {
		h.row(rows[i].synopsis(), helpColumn, strings.TrimSpace(rows[i].help+" "+rows[i].bracket()))
	}
	return h.String()
}
