package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPlacePreload(t *testing.T) {
	dir := t.TempDir()
	path, err := placePreload(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, want := preloadFile()
	is := func() bool {
		text, err := os.ReadFile(path)
		info, _ := os.Lstat(path)
		return err == nil && string(text) == string(want) && info.Mode() == 0o644
	}
	if !is() {
		t.Fatal("the file is not what it is to be")
	}
	before, _ := os.Stat(path)
	if again, err := placePreload(dir); err != nil || again != path {
		t.Errorf("%s, then %s, %v", path, again, err)
	}
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("it is written though it is there")
	}
	for name, spoil := range map[string]func() error{
		"other text":  func() error { return os.WriteFile(path, []byte(strings.Repeat("x", len(want))), 0o644) },
		"less":        func() error { return os.Truncate(path, 10) },
		"writable":    func() error { return os.Chmod(path, 0o666) },
		"unreadable":  func() error { return os.Chmod(path, 0o600) },
		"not there":   func() error { return os.Remove(path) },
		"a link":      func() error { _ = os.Remove(path); return os.Symlink("/dev/zero", path) },
		"a dead link": func() error { _ = os.Remove(path); return os.Symlink("nowhere", path) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if again, err := placePreload(dir); err != nil || again != path || !is() {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A folder in its place, one that all can change, and none.
	_ = os.Remove(path)
	if err := os.MkdirAll(filepath.Join(path, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, open, path + "/none"} {
		if got, err := placePreload(d); err == nil {
			t.Errorf("in %s: %s", d, got)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".evermore-preload-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	link := &Link{options: Options{PreloadDirs: []string{open, dir + "/none"}}}
	if option, inEnvironment := link.preloadOption(nil, nil); !inEnvironment || !strings.HasPrefix(option, "--import=") {
		t.Errorf("without a file: %s, %v", option, inEnvironment)
	}
}

func TestUnderPermissions(t *testing.T) {
	for _, c := range []struct {
		argv, env []string
		want      bool
	}{
		{[]string{"node", "app.js"}, []string{"A=--permission"}, false},
		{[]string{"node", "--permission", "app.js"}, nil, true},
		{[]string{"sh", "-c", "node --experimental-permission app.js"}, nil, true},
		{[]string{"node", "app.js"}, []string{"NODE_OPTIONS=--permission"}, true},
	} {
		if got := underPermissions(c.argv, c.env); got != c.want {
			t.Errorf("%q %q: %v", c.argv, c.env, got)
		}
	}
}

// A path goes through NODE_OPTIONS as it is.
func TestQuoteOption(t *testing.T) {
	eachLine(t, func(t *testing.T, node string) {
		s := newSupervisor(t, node, Options{PreloadDirs: []string{filepath.Join(t.TempDir(), `a "folder" \ of`)}}, Address{Port: freePort(t)})
		if err := os.Mkdir(s.link.options.PreloadDirs[0], 0o755); err != nil {
			t.Fatal(err)
		}
		s.write("app.js", `console.log(process.env.NODE_OPTIONS.startsWith('--require="'), require('net').Server.prototype.listen.toString().includes('waiting'))`)
		alone := s.start(nil, "node", "app.js")
		if got := alone.says(); got != "true true" {
			t.Errorf("it says %q", got)
		}
		alone.end()
	})
}
