package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"evermore/appfile"
	"evermore/control"
	"evermore/reaper"
)

// foreground completes the settings of a run in the foreground. A file of apps
// stands for the app in it.
func (s *settings) foreground(getenv func(string) string) (*settings, error) {
	list, err := s.expand(getenv)
	if err != nil {
		return nil, err
	}
	if len(list) > 1 {
		return nil, usage("%s has %d apps, and a run in the foreground is of one: %s start %s", s.argv[0], len(list), s.program, s.argv[0])
	}
	return list[0], nil
}

// expand gives the complete settings of each app that was asked for: one, or those
// of a file.
func (s *settings) expand(getenv func(string) string) ([]*settings, error) {
	sources := []source{variables(getenv)}
	if s.form == script {
		// Without a folder there is no configuration.
		if c, err := s.readConfig(); err == nil {
			sources = append(sources, c.optionDefaults(s.program))
		}
		if appfile.Is(s.argv[0]) {
			return s.ofFile(sources)
		}
	}
	return []*settings{s}, s.complete(table, sources...)
}

// ofFile gives the settings of each app of a file: a flag wins over a variable,
// this over the file, this over what evermore set has stored.
func (s *settings) ofFile(sources []source) ([]*settings, error) {
	path := s.argv[0]
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		_, err := s.script()
		return nil, err
	}
	apps, err := appfile.Read(context.Background(), path, s.fileKeys(), s.answer.env)
	if err != nil {
		return nil, err
	}
	var list []*settings
	for _, a := range apps {
		one, err := s.of(a, path, sources)
		if err != nil {
			return nil, fmt.Errorf("%s: app %s: %w", path, a.Name, err)
		}
		list = append(list, one)
	}
	return list, nil
}

// fileKeys are the keys that a file of apps may have.
func (s *settings) fileKeys() appfile.Keys {
	keys := appfile.Keys{Options: map[string]appfile.Kind{}, Split: splitWords, SourceDir: s.sourceDir}
	for i := range table {
		o := &table[i]
		switch {
		case o.flagOnly:
		case o.on != nil:
			keys.Options[o.name] = appfile.Switch
		case o.list:
			keys.Options[o.name] = appfile.List
		default:
			keys.Options[o.name] = appfile.Value
		}
	}
	return keys
}

// targetsOf gives the apps of a file as targets, by uid or script; none: it is no
// such file.
func (s *settings) targetsOf(file string) []string {
	if !appfile.Is(file) {
		return nil
	}
	apps, err := appfile.Read(context.Background(), file, s.fileKeys(), "")
	if err != nil {
		return nil
	}
	var targets []string
	for _, a := range apps {
		target := a.Script
		for _, o := range a.Options {
			if o.Name == "uid" {
				target = o.Values[0]
			}
		}
		targets = append(targets, target)
	}
	return targets
}

// of gives the settings of an app of a file.
func (s *settings) of(a appfile.App, path string, sources []source) (*settings, error) {
	one := newSettings(s.program)
	one.form, one.answer, one.starter, one.adopted = s.form, s.answer, s.starter, s.adopted
	for i := range table {
		o := &table[i]
		for _, text := range s.texts[o.name] {
			one.record(o, s.given[o.name], text)
			if err := o.read(one, text); err != nil {
				return nil, err
			}
		}
	}
	args := a.Args
	if len(s.argv) > 1 {
		args = s.argv[1:]
	}
	one.argv = append([]string{a.Script}, args...)
	if a.Direct {
		a.Options = append(a.Options, appfile.Option{Name: "command", Values: []string{noCommand}})
	}
	for _, e := range a.Env {
		if isOptionVariable(e) {
			return nil, usage("env: %s is an option of evermore, not of the app: give it a key of its own", e)
		}
	}
	one.env = a.Env
	file := func(o *option) (string, []string) {
		for _, given := range a.Options {
			if given.Name == o.name {
				by := path
				if given.Line > 0 {
					by += ":" + strconv.Itoa(given.Line)
				}
				if given.Key != "" {
					by += ": " + given.Key
				}
				return by, given.Values
			}
		}
		return "", nil
	}
	return one, one.complete(table, slices.Concat(sources[:1], []source{file}, sources[1:])...)
}

// isOptionVariable tells whether NAME=value sets an option of evermore.
func isOptionVariable(variable string) bool {
	for i := range table {
		if name := table[i].env(); name != "" && len(variable) > len(name) && variable[:len(name)+1] == name+"=" {
			return true
		}
	}
	return false
}

// startAction starts daemons. All apps of a file are checked before one starts.
func (s *settings) startAction(args []string) (int, error) {
	if len(args) > 1 && appfile.IsEcosystem(args[0]) {
		// pm2 takes its options behind the file, too.
		set := s.flagSet(actionNamed("start"))
		set.SetInterspersed(true)
		if err := set.Parse(args[1:]); err != nil {
			return 0, flagError(err, table)
		}
		args = append(args[:1:1], set.Args()...)
	}
	if err := s.called(args, false); err != nil {
		return 0, err
	}
	if os.Getpid() == 1 {
		return 0, usage("start is for a host: here it is PID 1, and all ends with it; use %s %s", s.program, strings.Join(args, " "))
	}
	if root, err := control.Root(); err == nil && !control.IsLasting(root) {
		s.say(levelWarn, fmt.Sprintf("no home folder can be used: logs and all else are in %s, which does not outlast a reboot; EVERMORE_ROOT names another", root))
	}
	list, err := s.expand(os.Getenv)
	if err != nil {
		return 0, err
	}
	all, err := s.apps()
	if err != nil {
		return 1, err
	}
	replaced := make([][]*app, len(list))
	for i, one := range list {
		if replaced[i], err = one.check(all); err != nil {
			return 0, err
		}
	}
	code := 0
	for i, one := range list {
		if err := one.startDaemon(replaced[i]); err != nil {
			code = one.fail(err)
		}
	}
	return code, nil
}

// check looks whether the app can be started, and gives what it takes the place
// of.
func (s *settings) check(all []*app) (replaced []*app, err error) {
	named := s.uid != ""
	s.name()
	for _, a := range all {
		switch {
		case !named || a.UID != s.uid:
		case s.answer.replace && a.livePID() != 0 && reaper.Below(os.Getpid(), a.livePID()):
			return nil, s.cannotStart(fmt.Sprintf("%s restart %s starts it anew", s.program, s.uid),
				"uid %s is that of the app which runs this: it would be ended first.", s.uid)
		case a.Status == control.Stopped, s.answer.replace:
			replaced = append(replaced, a)
		default:
			return nil, s.cannotStart(fmt.Sprintf("%s restart %s, or start --replace", s.program, s.uid),
				"uid %s is taken: it runs already, with supervisor %d.", s.uid, a.PID)
		}
	}
	s.placeDaemon()
	if len(replaced) > 0 || s.answer.replace {
		s.appendLogs = true // its log may be there
		s.texts["append"] = []string{"true"}
	}
	if _, err := s.options(); err != nil {
		return nil, err
	}
	return replaced, nil
}

// startDaemon starts the app and tells of it.
func (s *settings) startDaemon(replaced []*app) error {
	for _, a := range replaced {
		if err := s.stop(a); err != nil {
			return fmt.Errorf("cannot replace %s: %w", a.UID, err)
		}
	}
	for _, w := range s.warnings() {
		s.tell(levelWarn, w)
	}
	name := s.argv[0]
	s.tell(levelInfo, capital(s.program)+" processing file: "+name)
	_, noLog := os.Stat(s.logFile)
	o, err := launch(s.recipe(), s.logFile, nil)
	if err != nil {
		if errors.Is(noLog, fs.ErrNotExist) {
			forgetLog(s.logFile)
		}
		return err
	}
	if s.program != "forever" {
		s.tell(levelInfo, fmt.Sprintf("Evermore started process with uid: %s, pid: %d, log: %s", s.uid, o.PID, s.logFile))
	}
	return nil
}

// forgetLog deletes the log of a start that failed, unless it tells more than the
// starter has told: it would be in the way of the next one.
func forgetLog(path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "error: ") && !strings.HasPrefix(line, "help: ") && !strings.HasPrefix(line, "warn: ") {
			return
		}
	}
	_ = os.Remove(path)
}
