// Package appfile reads the files in which users of forever and pm2 describe
// their apps: forever's JSON (an object or an array of them) and pm2's ecosystem
// files, which may be programs.
//
// It knows no option of evermore by itself: the caller says which there are.
package appfile

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// App is one app of a file: what its author wrote, in the order of the file.
type App struct {
	// Name is for messages: the uid, else the script as it is written.
	Name string
	// Script is where the script is. A relative one is in the option source-dir,
	// else in the working directory. It need not exist.
	Script string
	// Direct says that Script is itself what is executed, with Args: no command
	// stands before it.
	Direct bool
	// Args are the script's own; nil: the file gives none.
	Args []string
	// Env is NAME=value, sorted.
	Env []string
	// Options are those that the file gives; no name is twice among them.
	Options []Option
}

// Option is one option of an app.
type Option struct {
	// Name is canonical: min-uptime.
	Name string
	// Values are as a user would write them on the command line, "true" or
	// "false" for a switch. There is more than one with a List only.
	Values []string
	// Key is what the file calls the option: minUptime, min_uptime. It is empty
	// where the value is a default of pm2's.
	Key string
	// Line is where the file gives the option. 0: the file is a program.
	Line int
}

// Kind is what an option takes.
type Kind int

const (
	Switch Kind = iota // true or false
	Value              // one text
	List               // one text or several
)

// Keys is what the caller knows of options.
type Keys struct {
	// Options are the options that a file may give, by their canonical names.
	Options map[string]Kind
	// Split splits a command line into its words, as a shell would.
	Split func(string) ([]string, error)
	// SourceDir, when not empty, is the --source-dir that the user gave: it wins
	// over the file's.
	SourceDir string
}

// maxSize is how many bytes a file, or what a program made of it, may have.
const maxSize = 1 << 20

// Is tells whether a path is, by its name, a file that describes apps.
func Is(path string) bool {
	switch filepath.Ext(path) {
	case ".json", ".jsonc":
		return true
	}
	return isProgram(path)
}

// IsEcosystem tells whether a path is, by its name, an ecosystem file of pm2's.
func IsEcosystem(path string) bool {
	return isProgram(path) || Is(path) && strings.HasPrefix(filepath.Base(path), "ecosystem.")
}

// isProgram tells whether a path is that of a file which node is to evaluate, by
// the rule of pm2 (Common.isConfigFile).
func isProgram(path string) bool {
	for _, end := range []string{".config.js", ".config.cjs", ".config.mjs"} {
		if strings.HasSuffix(path, end) {
			return true
		}
	}
	return false
}

// Read reads all apps of a file and checks them: when one is wrong, none is
// returned. pm2env, when not empty, is the NAME of the env_NAME that is to be
// added to env. An error is one line and begins with FILE:LINE:COLUMN as far as
// they are known; columns count bytes, from 1.
//
// A relative script is looked for in sourceDir (in pm2's files: cwd), else in the
// caller's working directory, and where it is not there, next to the file.
// Folders and files to read are found likewise. Files to write are left as they
// are written; pm2 has them in cwd.
//
// A program is run once, with the caller's environment, for 10 s at the most; ctx
// ends it early. It is waited for as os/exec does, and so Read is for a process
// in which no reaper waits for every child.
func Read(ctx context.Context, path string, k Keys, pm2env string) ([]App, error) {
	text, err := load(path)
	if err != nil {
		return nil, err
	}
	// Without a working directory (it was deleted) a relative path could not
	// have been read.
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("cannot find the folder of %s: %w", path, err)
	}
	r := &reader{keys: k, path: path, dir: filepath.Dir(abs), text: text}
	if isProgram(path) {
		if r.text, err = evaluate(ctx, path, abs); err != nil {
			return nil, err
		}
		r.evaluated = true
	}
	return r.apps(pm2env)
}

// load reads a whole file.
func load(path string) ([]byte, error) {
	// Opening a FIFO would wait for its writer.
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read %s: %w", path, cause(err))
	case info.IsDir():
		return nil, fmt.Errorf("cannot read %s: it is a folder: name a file", path)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("cannot read %s: it is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, cause(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, cause(err))
	}
	if len(text) > maxSize {
		return nil, fmt.Errorf("cannot take %s as a description of apps: it is larger than 1 MiB", path)
	}
	return text, nil
}

// distinct reports apps of one uid: only one of them could run.
func (r *reader) distinct(apps []App) error {
	seen := map[string]bool{}
	for i := range apps {
		uid := apps[i].value("uid")
		if uid != "" && seen[uid] {
			return fmt.Errorf("%s: two apps are called %q: give each a name of its own", r.path, uid)
		}
		seen[uid] = true
	}
	return nil
}

// value is the first value of an option; "": it is not given.
func (a *App) value(name string) string {
	for _, o := range a.Options {
		if o.Name == name && len(o.Values) > 0 {
			return o.Values[0]
		}
	}
	return ""
}

// apps reads the file's text as forever's or pm2's, whichever it is.
func (r *reader) apps(pm2env string) ([]App, error) {
	top, err := r.parse()
	if err != nil {
		return nil, err
	}
	list, pm2, err := r.list(top)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, r.errorAt(top, "there is no app in it")
	}
	switch {
	case pm2:
		err = r.hasEnvironment(list, pm2env)
	case pm2env != "":
		err = fmt.Errorf("%s has no env_%s: --env is for pm2's files, with a list of \"apps\"", r.path, pm2env)
	}
	if err != nil {
		return nil, err
	}
	var all []App
	for i, v := range list {
		r.number = i + 1
		var apps []App
		if pm2 {
			apps, err = r.pm2Apps(v, pm2env)
		} else {
			apps, err = r.foreverApp(v)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, apps...)
	}
	if err := r.distinct(all); err != nil {
		return nil, err
	}
	return all, nil
}

// resolve finds a file or folder to read: in the working directory, and where it
// is not there, next to the file that names it.
func (r *reader) resolve(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	here, err := filepath.Abs(path)
	if err == nil && exists(here) {
		return here
	}
	if there := filepath.Join(r.dir, path); exists(there) {
		return there
	}
	if err != nil {
		return path
	}
	return here
}

// script finds the script: in the folder from, which may be empty.
func (r *reader) script(path, from string) string {
	if r.keys.SourceDir != "" {
		from = r.keys.SourceDir
	}
	if from == "" || filepath.IsAbs(path) {
		return r.resolve(path)
	}
	return filepath.Join(r.resolve(from), path)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// environ is a set of variables as NAME=value, sorted.
func environ(vars map[string]string) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		list = append(list, name+"="+vars[name])
	}
	return list
}
