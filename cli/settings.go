package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	pid1 "evermore/init"
	"evermore/nearest"
	"evermore/reaper"
)

// settings is what was asked for: every option read and checked, whether it came
// from a flag, a variable or a default.
type settings struct {
	program string // evermore or forever
	form    form
	// argv is the COMMAND and its arguments, or the SCRIPT and its own.
	argv []string

	// app holds the options that are those of the app itself; options() gives
	// the rest of them.
	app pid1.Options

	// uid and id are what the app is called; path is evermore's folder for it, "":
	// the usual one.
	uid, id, path string

	command    []string // what runs a SCRIPT; empty: node
	envFiles   []string // read before each start
	env        []string // of a file of apps: it goes before the environment
	sourceDir  string
	workingDir string
	user       string
	noNewPrivs bool
	umask      int // -1: evermore's own
	nodeReport bool

	npm          string // the script of package.json; empty: none
	held         heldPorts
	holdTimeout  time.Duration
	instances    int
	instanceVar  string
	reloadMode   string
	readyTimeout time.Duration
	drainPause   time.Duration
	pm2Messages  bool
	nodeMetrics  bool

	memoryAware    bool
	grace          time.Duration // after which somebody else kills; 0: never
	terminationLog string        // empty: none

	// The files are absolute after options(); empty: none.
	logFile, outFile, errFile, pidFile string
	appendLogs                         bool
	ownLog                             bool // logFile is that of the uid
	silent                             bool
	timestamps                         bool
	logMaxSize                         int64 // bytes; 0: no rotation
	logMaxFiles                        int
	logCompress                        bool

	watch                  bool
	watchDirs, watchIgnore []string
	watchAll               bool
	watchReload            bool
	watchSignal            syscall.Signal // 0: a change restarts, or reloads
	watchPoll              time.Duration

	http string // the address to listen on; empty: off

	logFormat string // console or json after options()
	verbose   bool
	debug     bool
	colors    bool // with isGiven("colors")

	help    bool
	version bool

	starter *starter         // nil: this is no daemon
	adopted *reaper.Adoption // the app of a daemon, where it runs already
	ran     []string         // what runs the SCRIPT, after options()

	// answer is how an action answers.
	answer struct {
		json, follow, out, err, effective, replace, user, write bool
		lines                                                   int
		env                                                     string
	}

	// asked is what evermore health was asked.
	asked struct {
		live, ready bool
		timeout     time.Duration
	}

	// given says by which words an option was set: "-m/--max", "EVERMORE_MAX" or
	// "app.json:3"; texts are the values, as they were written.
	given map[string]string
	texts map[string][]string
}

func newSettings(program string) *settings {
	return &settings{
		program: program,
		app: pid1.Options{
			Rewrite:   map[syscall.Signal]syscall.Signal{},
			RemapExit: map[int]int{},
		},
		umask: -1, instances: 1,
		given: map[string]string{},
		texts: map[string][]string{},
	}
}

// isGiven tells whether an option was set by a flag or a variable, not by its
// default.
func (s *settings) isGiven(name string) bool { return s.given[name] != "" }

func (s *settings) addRewrites(text string) error {
	rewrites, err := parseRewrites(text)
	if err == nil {
		maps.Copy(s.app.Rewrite, rewrites)
	}
	return err
}

// failure is an error that ends evermore with a code of its own; the others end
// it with 1.
type failure struct {
	code int
	err  error
	hint string // what to do about it, if anything
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

const (
	codeUsage       = 2
	codeCannotStart = 255 // forever's process.exit(-1)
	codeNotFound    = 127 // a shell's, for a command that is not there
)

// usage is a failure by what was typed.
func usage(format string, args ...any) error {
	return &failure{code: codeUsage, err: fmt.Errorf(format, args...)}
}

// fail says why evermore ends and gives its exit code. Each line of the error is
// a line of its own.
func (s *settings) fail(err error) int {
	code, hint := 1, ""
	if f := new(failure); errors.As(err, &f) {
		code = f.code
		// An outer failure may have been made of one that knows more.
		for hint = f.hint; hint == "" && errors.As(f.err, &f); {
			hint = f.hint
		}
	}
	s.say(levelError, err.Error())
	s.starter.tell(outcome{Error: err.Error(), Code: code, Hint: hint})
	if hint == "" && code == codeUsage {
		hint = s.program + " --help shows the options"
	}
	if hint != "" {
		s.say(levelHelp, hint)
	}
	return code
}

// about is an error of the value of an option: it names what set the option.
func (s *settings) about(name string, err error) error {
	return usage("%s: %w", s.given[name], err)
}

// flags adds the options of a table to a set of flags.
func (s *settings) flags(set *pflag.FlagSet, table []option) {
	set.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		name = kebab(name)
		if to, ok := spellings[name]; ok {
			name = to
		}
		return pflag.NormalizedName(name)
	})
	// In the order of the table; sorting costs more than all the rest.
	set.SortFlags = false
	for i := range table {
		o := &table[i]
		set.AddFlag(&pflag.Flag{Name: o.name, Shorthand: o.short, Usage: o.help, Value: flagValue{o, s, false}})
		if o.negated {
			set.AddFlag(&pflag.Flag{Name: "no-" + o.name, Usage: "not --" + o.name, Value: flagValue{o, s, true}})
		}
	}
}

// flagValue is an option as pflag sees it.
type flagValue struct {
	*option
	settings *settings
	not      bool
}

func (f flagValue) Set(text string) error {
	if err := f.read(f.settings, text); err != nil {
		return err
	}
	if f.not {
		*f.on(f.settings) = !*f.on(f.settings)
	}
	if f.on != nil {
		text = strconv.FormatBool(*f.on(f.settings))
	}
	f.settings.record(f.option, f.label(), text)
	return nil
}

func (f flagValue) String() string {
	if f.option != nil && f.on != nil {
		return fmt.Sprint(*f.on(f.settings))
	}
	return ""
}

// Type has a meaning for cobra: it reads a "bool", and offers an "Array" more
// than once.
func (f flagValue) Type() string {
	switch {
	case f.on != nil:
		return "bool"
	case f.list:
		return f.arg + "Array"
	}
	return f.arg
}

func (f flagValue) IsBoolFlag() bool { return f.on != nil }

// record remembers that an option was set, by what, and to what text. A value
// that may be given several times adds up.
func (s *settings) record(o *option, by, text string) {
	if o.list && s.given[o.name] != "" {
		s.texts[o.name] = append(s.texts[o.name], text)
	} else {
		s.texts[o.name] = []string{text}
	}
	s.given[o.name] = by
}

// source gives the values of an option as they were written, and what to call
// them in a message; none: it says nothing of it.
type source func(*option) (by string, texts []string)

// variables is the source of the EVERMORE_ variables. An empty one counts as not
// set. Unknown ones are none of evermore's: Kubernetes adds EVERMORE_SERVICE_HOST
// and others for a Service of that name.
func variables(getenv func(string) string) source {
	return func(o *option) (string, []string) {
		name := o.env()
		if name == "" {
			return "", nil
		}
		if text := getenv(name); text != "" {
			return name, []string{text}
		}
		return "", nil
	}
}

// complete sets what no flag has set: by the first of the sources that knows the
// option, else by the default of the form.
func (s *settings) complete(table []option, sources ...source) error {
	for i := range table {
		o := &table[i]
		foreign := o.scriptOnly && s.form == container
		switch {
		case s.isGiven(o.name):
			if foreign {
				return usage("%s goes with a SCRIPT: with -- the COMMAND is what runs", o.label())
			}
			continue
		case foreign:
			continue
		}
		if found, err := s.take(o, sources); found || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		if text := o.defaults[s.form]; text != "" {
			if err := o.read(s, text); err != nil {
				return fmt.Errorf("internal error: the default of %s: %w", o.label(), err)
			}
		}
	}
	return nil
}

// take sets the option by the first source that knows it.
func (s *settings) take(o *option, sources []source) (found bool, err error) {
	for _, from := range sources {
		by, texts := from(o)
		for _, text := range texts {
			s.record(o, by, text)
			if err := o.read(s, text); err != nil {
				return true, s.about(o.name, err)
			}
		}
		if len(texts) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// flagError makes pflag's errors evermore's.
func flagError(err error, table []option) error {
	var (
		invalid *pflag.InvalidValueError
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		syntax  *pflag.InvalidSyntaxError
	)
	switch {
	case errors.As(err, &invalid):
		name := "--" + invalid.GetFlag().Name
		if f := invalid.GetFlag(); f.Shorthand != "" {
			name = "-" + f.Shorthand + "/" + name
		}
		return usage("%s: %w", name, invalid.Unwrap())
	case errors.As(err, &missing):
		o := missing.GetFlag().Value.(flagValue)
		return usage("%s: a value is missing: use --%s %s", o.label(), o.name, o.arg)
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		return usage("unknown option -%s", unknown.GetSpecifiedName())
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		if near := nearestOption(kebab(name), table); near != "" {
			return usage("unknown option --%s: did you mean --%s?", name, near)
		}
		return usage("unknown option --%s", name)
	case errors.As(err, &syntax):
		return usage("cannot read %q as an option", syntax.GetSpecifiedFlag())
	}
	return usage("%w", err)
}

// nearestOption is the option that was probably meant; "": none is near.
func nearestOption(name string, table []option) string {
	var names []string
	for _, o := range table {
		names = append(names, o.name)
		if o.negated {
			names = append(names, "no-"+o.name)
		}
	}
	return nearest.Nearest(name, append(names, slices.Sorted(maps.Keys(spellings))...))
}
