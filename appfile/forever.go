package appfile

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/tailscale/hujson"

	"evermore/nearest"
)

// pathOptions name files and folders that are read, and so are looked for next
// to the file too.
var pathOptions = []string{"source-dir", "working-dir", "env-file", "watch-directory"}

// foreverApp reads an object in forever's words: script, args and every option
// of evermore, in camelCase or kebab-case, and env. It gives one app.
func (r *reader) foreverApp(v hujson.Value) ([]App, error) {
	members, err := r.members(v, "an app")
	if err != nil {
		return nil, err
	}
	var app App
	names := r.spellings()
	for _, m := range members {
		switch m.key {
		case "script":
			app.Script, err = r.readText(m.value, m.key)
		case "args":
			app.Args, err = r.readWords(m.value, m.key)
		case "env":
			var vars map[string]string
			vars, err = r.readEnv(m.value, m.key, false)
			app.Env = environ(vars)
		default:
			name, ok := names[m.key]
			if !ok {
				return nil, r.unknown(m)
			}
			err = r.setOption(&app, name, m)
		}
		if err != nil {
			return nil, err
		}
	}
	if app.Script == "" {
		return nil, r.noScript(v)
	}
	app.Name = cmp.Or(app.value("uid"), app.Script)
	// What evermore itself finds stays as it is written: list shows it so.
	if r.keys.SourceDir == "" && app.value("source-dir") == "" && !exists(app.Script) {
		app.Script = r.resolve(app.Script)
	}
	return []App{app}, nil
}

// noScript is forever's error for an app without a script.
func (r *reader) noScript(v hujson.Value) error {
	const text = `"script" option required in JSON configuration files`
	if r.evaluated {
		return r.errorAt(v, text)
	}
	return r.errorAt(v, "app %d: "+text, r.number)
}

// spellings gives the options by every name that they may have in a file.
func (r *reader) spellings() map[string]string {
	names := map[string]string{}
	for name := range r.keys.Options {
		names[name], names[camel(name, "-")] = name, name
	}
	return names
}

// monitorKeys are those of the library forever-monitor, which forever itself never
// read from a file.
var monitorKeys = map[string]string{
	"cwd":                 `use "workingDir"`,
	"killTTL":             `use "killTimeout"`,
	"watchIgnorePatterns": `use "watchIgnore"`,
	"watchIgnoreDotFiles": `dot files are ignored unless "watchAll" is true`,
	"usePolling":          `use "watchPoll", a time such as "1s"`,
	"pollingInterval":     `use "watchPoll", a time such as "1s"`,
	"checkFile":           "the script must be there: leave it out",
	"spawnWith":           "forever does not read it either: leave it out",
	"hideEnv":             "forever does not read it either: leave it out",
	"fork":                "forever does not read it either: leave it out",
	"stdio":               "forever does not read it either: leave it out",
	"parser":              "forever does not read it either: leave it out",
	"options":             `use "args"`,
}

// unknown is the error for a key that nothing is called.
func (r *reader) unknown(m member) error {
	if advice := monitorKeys[m.key]; advice != "" {
		return r.errorAt(m.at, "unknown key %q: %s", m.key, advice)
	}
	if pm2Key(m.key) != nil {
		return r.errorAt(m.at, "unknown key %q: pm2's keys go into a list of \"apps\"", m.key)
	}
	known := []string{"script", "args", "env"}
	for _, name := range slices.Sorted(maps.Keys(r.keys.Options)) {
		known = append(known, camel(name, "-"))
	}
	return r.misspelt(m, known)
}

func (r *reader) misspelt(m member, known []string) error {
	if near := nearest.Nearest(m.key, known); near != "" {
		return r.errorAt(m.at, "unknown key %q: did you mean %q?", m.key, near)
	}
	return r.errorAt(m.at, "unknown key %q", m.key)
}

// setOption reads the value of an option by the option's kind.
func (r *reader) setOption(app *App, name string, m member) error {
	if name == "watch" && m.value.Value.Kind() == '[' {
		return r.setWatched(app, m, r.resolve)
	}
	var values []string
	var err error
	switch r.keys.Options[name] {
	case Switch:
		values, err = one(r.readSwitch(m.value, m.key))
	case Value:
		values, err = one(r.readText(m.value, m.key))
	case List:
		values, err = r.readList(m.value, m.key)
	}
	if err != nil {
		return err
	}
	if slices.Contains(pathOptions, name) {
		for i, path := range values {
			// An empty one is the option's own error.
			if path != "" {
				values[i] = r.resolve(path)
			}
		}
	}
	return r.add(app, name, m, values...)
}

// one is a value alone, as values.
func one(text string, err error) ([]string, error) { return []string{text}, err }

// setWatched reads the folders to watch, which is pm2's way to say watch: none
// is the app's own.
func (r *reader) setWatched(app *App, m member, place func(string) string) error {
	folders, err := r.readList(m.value, m.key)
	if err != nil {
		return err
	}
	for i, folder := range folders {
		folders[i] = place(folder)
	}
	if err := r.add(app, "watch", m, "true"); err != nil || len(folders) == 0 {
		return err
	}
	return r.add(app, "watch-directory", m, folders...)
}

// add sets an option, once. A list without values says nothing.
func (r *reader) add(app *App, name string, m member, values ...string) error {
	if _, known := r.keys.Options[name]; !known {
		return r.errorAt(m.at, "%q needs --%s, which there is not: leave it out", cmp.Or(m.key, "apps"), name)
	}
	for _, o := range app.Options {
		if o.Name == name {
			return r.errorAt(m.at, "%q sets what %q has set already: use one of them", m.key, o.Key)
		}
	}
	if len(values) == 0 {
		return nil
	}
	o := Option{Name: name, Values: values, Key: m.key}
	if m.key != "" {
		o.Line = r.line(m.at)
	}
	app.Options = append(app.Options, o)
	return nil
}

// camel joins the parts of a name as JavaScript does: min-uptime is minUptime.
func camel(name, separator string) string {
	parts := strings.Split(name, separator)
	for i, part := range parts {
		if i > 0 && part != "" {
			parts[i] = strings.ToUpper(part[:1]) + part[1:]
		}
	}
	return strings.Join(parts, "")
}
