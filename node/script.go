package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Script is a script of package.json, ready to be run without npm.
type Script struct {
	Argv, Env []string
	// Dir is the package's folder, in which npm runs scripts.
	Dir string
}

// ReadScript resolves what `npm run NAME -- ARG...` runs in a folder or above it:
// node_modules/.bin of all folders up to / first in PATH, npm_* variables
// (https://docs.npmjs.com/cli/using-npm/scripts), pre and post scripts, "node
// server.js" where there is a server.js and no script "start". Without npm in
// between, signals and descriptors reach what is run; a shell is only used for what
// needs one.
func ReadScript(dir, name string, args, env []string) (*Script, error) {
	s := &Script{}
	file, text, err := findPackage(dir)
	if err != nil {
		return nil, err
	}
	s.Dir = filepath.Dir(file)
	var p manifest
	if err := json.Unmarshal(bytes.TrimPrefix(text, []byte("\ufeff")), &p); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	command := p.scripts[name]
	if command == "" && name == "start" {
		if _, err := os.Stat(filepath.Join(s.Dir, "server.js")); err == nil {
			command = "node server.js"
		}
	}
	if command == "" {
		return nil, fmt.Errorf("%s has no script %q: it has %s", file, name, p.names())
	}
	s.Env = p.environ(env, dir, file, name, command)

	main, assigned := split(command)
	main = append(main, args...)
	pre, post := p.scripts["pre"+name], p.scripts["post"+name]
	if pre == "" && post == "" && len(main) > len(args) && s.finds(main[0]) {
		s.Argv = main
		s.Env = with(s.Env, assigned...)
		return s, nil
	}
	s.Argv = []string{"sh", "-c", shell(name, pre, command, args, post)}
	return s, nil
}

// split gives the words of a command that needs no shell, and the variables that
// it sets; none: it needs one.
func split(command string) (words, assigned []string) {
	special := func(r rune) bool { return !alphanumeric(r) && !strings.ContainsRune("_@%+=:,./- \t", r) }
	if strings.ContainsFunc(command, special) {
		return nil, nil
	}
	words = strings.Fields(command)
	for len(words) > 0 && isAssignment(words[0]) {
		assigned, words = append(assigned, words[0]), words[1:]
	}
	return words, assigned
}

func isAssignment(word string) bool {
	name, _, ok := strings.Cut(word, "=")
	return ok && name != "" && (name[0] < '0' || name[0] > '9') &&
		!strings.ContainsFunc(name, func(r rune) bool { return r != '_' && !alphanumeric(r) })
}

func alphanumeric(r rune) bool {
	return r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r))
}

// finds tells whether a program is in the PATH. What is not may be the shell's:
// exec, cd.
func (s *Script) finds(program string) bool {
	if strings.Contains(program, "/") {
		return true
	}
	for _, dir := range filepath.SplitList(lookup(s.Env, "PATH")) {
		if info, err := os.Stat(filepath.Join(dir, program)); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

// shell is what sh runs: each script as it stands, with its own name in the
// environment, the next one if it succeeds.
func shell(name, pre, command string, args []string, post string) string {
	for _, a := range args {
		command += " " + quote(a)
	}
	if pre == "" && post == "" {
		return command
	}
	var b strings.Builder
	last := name
	if post != "" {
		last = "post" + name
	}
	for _, s := range []struct{ event, command string }{{"pre" + name, pre}, {name, command}, {"post" + name, post}} {
		if s.command == "" {
			continue
		}
		fmt.Fprintf(&b, "npm_lifecycle_event=%s npm_lifecycle_script=%s\n", quote(s.event), quote(s.command))
		if s.event == last {
			b.WriteString(s.command)
		} else {
			fmt.Fprintf(&b, "(\n%s\n) || exit\n", s.command)
		}
	}
	return b.String()
}

func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// manifest is a package.json.
type manifest struct {
	scripts map[string]string
	fields  map[string]any
}

func (p *manifest) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // they are written as they stand
	if err := decoder.Decode(&p.fields); err != nil {
		return err
	}
	p.scripts = map[string]string{}
	list, _ := p.fields["scripts"].(map[string]any)
	for name, command := range list {
		p.scripts[name], _ = command.(string)
	}
	return nil
}

// findPackage looks for package.json in a folder and above it, as npm does.
func findPackage(dir string) (file string, text []byte, err error) {
	from, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	for at := from; ; at = filepath.Dir(at) {
		file = filepath.Join(at, "package.json")
		text, err = readFile(file)
		if !errors.Is(err, os.ErrNotExist) {
			return file, text, err
		}
		if at == filepath.Dir(at) {
			return "", nil, fmt.Errorf("there is no package.json in %s or above it", from)
		}
	}
}

// readFile reads a file, and waits for no FIFO in its place.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

func (p *manifest) names() string {
	if len(p.scripts) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(p.scripts)), ", ")
}

// environ adds what npm adds: @npmcli/run-script, lib/make-spawn-args.js,
// set-path.js and package-envs.js.
func (p *manifest) environ(env []string, dir, file, name, command string) []string {
	var path []string
	for at := filepath.Dir(file); ; at = filepath.Dir(at) {
		path = append(path, filepath.Join(at, "node_modules/.bin"))
		if at == filepath.Dir(at) {
			break
		}
	}
	if had := lookup(env, "PATH"); had != "" {
		path = append(path, had)
	}
	added := []string{
		"PATH=" + strings.Join(path, ":"),
		"PWD=" + filepath.Dir(file),
		"INIT_CWD=" + dir,
		"npm_command=run-script",
		"npm_config_local_prefix=" + filepath.Dir(file),
		"npm_lifecycle_event=" + name,
		"npm_lifecycle_script=" + command,
		"npm_package_json=" + file,
	}
	for _, field := range []string{"name", "version", "config", "engines"} {
		if value, ok := p.fields[field]; ok {
			added = variables(added, "npm_package_"+field, value)
		}
	}
	return with(env, added...)
}

// variables flattens a value of package.json.
func variables(list []string, name string, value any) []string {
	switch v := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			list = variables(list, name+"_"+key, v[key])
		}
	case []any:
		for i, item := range v {
			list = variables(list, name+"_"+strconv.Itoa(i), item)
		}
	case nil, bool:
		text := ""
		if v == true {
			text = "true"
		}
		list = append(list, name+"="+text)
	default:
		list = append(list, fmt.Sprintf("%s=%v", name, v))
	}
	return list
}

func lookup(env []string, name string) string {
	for _, v := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// with gives an environment in which these variables are set.
func with(env []string, set ...string) []string {
	names := map[string]bool{}
	for _, v := range set {
		name, _, _ := strings.Cut(v, "=")
		names[name] = true
	}
	out := slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return names[name]
	})
	return append(out, set...)
}
