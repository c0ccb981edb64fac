package node

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func packageJSON(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestReadScript(t *testing.T) {
	const text = `{ "scripts": {
 "start": "node server.js --port 3000", "prod": "NODE_ENV=production A= node x.js", "both": "node a.js && node b.js",
 "quoted": "node 'a b.js'", "builtin": "exec node x.js", "empty": "", "only": "A=b", "path": "./run.sh",
 "prebuild": "echo pre", "build": "echo build # it", "postbuild": "echo post" } }`
	dir := packageJSON(t, text)
	for _, c := range []struct {
		name string
		args []string
		argv []string
		env  []string
	}{
		{"start", nil, []string{"node", "server.js", "--port", "3000"}, nil},
		{"start", []string{"a b", "c"}, []string{"node", "server.js", "--port", "3000", "a b", "c"}, nil},
		{"prod", nil, []string{"node", "x.js"}, []string{"NODE_ENV=production", "A="}},
		{"path", nil, []string{"./run.sh"}, nil},
		{"both", []string{"it's"}, []string{"sh", "-c", `node a.js && node b.js 'it'\''s'`}, nil},
		{"quoted", nil, []string{"sh", "-c", "node 'a b.js'"}, nil},
		{"builtin", nil, []string{"sh", "-c", "exec node x.js"}, nil},
		{"only", nil, []string{"sh", "-c", "A=b"}, nil},
	} {
		s, err := ReadScript(dir, c.name, c.args, os.Environ())
		if err != nil || !slices.Equal(s.Argv, c.argv) || s.Dir != dir {
			t.Errorf("%s: %+v, %v", c.name, s, err)
			continue
		}
		for _, v := range append(c.env, "npm_lifecycle_event="+c.name, "npm_package_json="+dir+"/package.json") {
			if !slices.Contains(s.Env, v) {
				t.Errorf("%s: %s is missing in %q", c.name, v, s.Env)
			}
		}
	}
	for name, want := range map[string]string{"no": "no script \"no\": it has both, build,", "empty": "no script"} {
		if _, err := ReadScript(dir, name, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for text, want := range map[string]string{
		`{`: "cannot read", `[]`: "cannot read", `{}`: "it has none", `{"scripts":[1]}`: "it has none", `{"scripts":{"start":7}}`: "it has start",
	} {
		if _, err := ReadScript(packageJSON(t, text), "start", nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A package that has only server.js starts that, as with npm; so it does from a
// folder below.
func TestServerJS(t *testing.T) {
	dir := packageJSON(t, "\ufeff{}")
	below := filepath.Join(dir, "lib")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "server.js"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := ReadScript(below, "start", nil, os.Environ())
	if err != nil || !slices.Equal(s.Argv, []string{"node", "server.js"}) || s.Dir != dir || !slices.Contains(s.Env, "INIT_CWD="+below) {
		t.Errorf("%+v, %v", s, err)
	}
}

// What a script prints and sees is what it prints and sees under npm.
func TestAsNpm(t *testing.T) {
	if _, err := exec.LookPath("npm"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("npm is missing: apt-get install npm")
		}
		t.Skip("npm is missing")
	}
	const text = `{ "name": "a", "version": "1.2.3", "config": { "port": 8080, "deep": { "on": true, "off": false, "none": null } },
 "engines": { "node": ">=18" },
 "scripts": { "premain": "echo $npm_lifecycle_event: $npm_lifecycle_script", "main": "node -p \"'quoted: ' + process.argv[1] + process.env.npm_lifecycle_event\" # it",
 "postmain": "tool", "env": "node env.js", "fails": "exit 3", "postfails": "echo never" } }`
	dir := packageJSON(t, text)
	bin := filepath.Join(dir, "node_modules", ".bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		filepath.Join(bin, "tool"):   "#!/bin/sh\necho the tool of $npm_package_name $npm_package_config_port in $(pwd)\n",
		filepath.Join(dir, "env.js"): `console.log(JSON.stringify(process.env))`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "npm_config_update_notifier=false", "npm_config_loglevel=silent"}
	run := func(argv []string, dir string, env []string) (string, int) {
		c := exec.Command(argv[0], argv[1:]...)
		c.Dir, c.Env, c.Stderr = dir, env, os.Stderr
		out, _ := c.Output()
		return string(out), c.ProcessState.ExitCode()
	}
	both := func(name string, args ...string) (own, npm string) {
		s, err := ReadScript(dir, name, args, env)
		if err != nil {
			t.Fatal(err)
		}
		own, code := run(s.Argv, s.Dir, s.Env)
		npm, want := run(append([]string{"npm", "run", "--silent", name, "--"}, args...), dir, env)
		if code != want {
			t.Errorf("%s: exit code %d, npm's %d", name, code, want)
		}
		return own, npm
	}
	if own, npm := both("main"); own != npm || !strings.Contains(own, "the tool of a 8080 in "+dir) || !strings.HasPrefix(own, "premain: echo") {
		t.Errorf("it says\n%s\nunder npm\n%s", own, npm)
	}
	if own, npm := both("fails"); own != npm {
		t.Errorf("it says %q, under npm %q", own, npm)
	}
	own, npm := both("env")
	var ownEnv, npmEnv map[string]string
	if json.Unmarshal([]byte(own), &ownEnv) != nil || json.Unmarshal([]byte(npm), &npmEnv) != nil {
		t.Fatalf("%q\n%q", own, npm)
	}
	for name, want := range npmEnv {
		// What npm alone has: itself, and its own settings; npm_command is "run" or
		// "run-script" by its version.
		if strings.HasPrefix(name, "npm_config_") && name != "npm_config_local_prefix" ||
			slices.Contains([]string{"NODE", "npm_command", "npm_execpath", "npm_node_execpath", "EDITOR", "COLOR"}, name) {
			continue
		}
		got := ownEnv[name]
		if name == "PATH" {
			want, _, _ = strings.Cut(want, ":/usr/")
			got = got[:min(len(got), len(want))]
		}
		if got != want {
			t.Errorf("%s is %q, under npm %q", name, got, want)
		}
	}
}
