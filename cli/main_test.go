package cli

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"evermore/early"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestMain lets the test binary be evermore, or forever, when it is called so,
// and lets it tell what it sees of a terminal.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "evermore", "forever":
		os.Exit(Main(os.Args, early.First))
	case "terminal":
		fmt.Printf("foreground %v, controlling terminal %v, stop signals %s\n", isForeground(0), hasTerminal(), stopSignalsHere())
		os.Exit(0)
	case "identity":
		s := newSettings("evermore")
		s.user = os.Args[1]
		s.given["user"] = "--user"
		who, err := s.identity()
		if err == nil {
			fmt.Printf("%+v %s %s\n", who.credential, who.name, who.home)
		}
		fmt.Println(err)
		os.Exit(0)
	}
	// A race-enabled program that ends in order sleeps for a second, unless:
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

func stopSignalsHere() string {
	s := newSettings("evermore")
	if code := s.main([]string{"--", "true"}, func(string) string { return "" }, func(*settings) int { return 0 }); code != 0 {
		return fmt.Sprint("code ", code)
	}
	o, err := s.options()
	return fmt.Sprint(o.StopSignals, " ", o.Terminal, " ", o.Command.OwnGroup, " ", err)
}

// called gives the path of a link to the test binary with the name.
func called(t *testing.T, name string) string {
	t.Helper()
	link := filepath.Join(t.TempDir(), name)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// missing ends a test that needs a tool which is not here; in CI every tool is.
func missing(t *testing.T, tool string, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s: %v", tool, err)
	}
	t.Skipf("%s: %v", tool, err)
}

// execute runs a program and gives its output and exit code; -1: a signal ended it.
func execute(t *testing.T, env []string, argv ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if e := new(exec.ExitError); err != nil && !errors.As(err, &e) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestBare(t *testing.T) {
	evermore, forever := called(t, "evermore"), called(t, "forever")
	for _, args := range [][]string{{evermore}, {evermore, "-h"}, {evermore, "--help"}, {evermore, "-v", "--help"}, {evermore, "help"}} {
		out, errs, code := execute(t, []string{"EVERMORE_MAX=bad"}, args...)
		if !strings.HasPrefix(out, "evermore keeps an app alive") || errs != "" || code != 0 {
			t.Errorf("%q: code %d, stderr %q, stdout %.50q", args[1:], code, errs, out)
		}
	}
	if out, _, code := execute(t, nil, forever); !strings.Contains(out, "  forever [options] SCRIPT") || code != 0 {
		t.Errorf("forever: code %d, stdout %.200q", code, out)
	}
	for _, args := range [][]string{{evermore, "health", "--help"}, {evermore, "help", "health"}} {
		if out, _, code := execute(t, nil, args...); !strings.HasPrefix(out, "evermore health asks") || code != 0 {
			t.Errorf("%q: code %d, stdout %.50q", args[1:], code, out)
		}
	}
	if out, _, code := execute(t, nil, evermore, "--version"); !strings.HasPrefix(out, "evermore ") || strings.Count(out, "\n") != 1 || code != 0 {
		t.Errorf("--version: code %d, %q", code, out)
	}
	if out, _, code := execute(t, nil, forever, "--version", "x.js"); !strings.HasPrefix(out, "v") || code != 0 {
		t.Errorf("forever --version: code %d, %q", code, out)
	}
}

func TestVersion(t *testing.T) {
	defer func() { version, revision = "", "" }()
	for _, test := range []struct{ version, revision, program, want string }{
		{"v1.2.3", "abc", "evermore", "evermore 1.2.3 (revision abc)\n"},
		{"1.2.3", "abc", "evermore", "evermore 1.2.3 (revision abc)\n"},
		{"1.2.3", "abc", "forever", "v1.2.3\n"},
		{"v1.2.3", "", "forever", "v1.2.3\n"},
	} {
		version, revision = test.version, test.revision
		if got := newSettings(test.program).versionText(); got != test.want {
			t.Errorf("%+v: got %q", test, got)
		}
	}
	version, revision = "", ""
	if v, rev := build(); v == "" || rev == "" || strings.Contains(v, "(") {
		t.Errorf("what Go has recorded: %q, %q", v, rev)
	}
	info := &debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}}
	if got := vcsRevision(info); got != "abc+dirty" {
		t.Errorf("got %q", got)
	}
}

func TestHelp(t *testing.T) {
	for program, texts := range map[string]func(*settings) string{
		"help.txt":        (*settings).helpText,
		"health-help.txt": (*settings).healthHelp,
	} {
		s := newSettings("evermore")
		s.given["colors"] = "--colors"
		got := texts(s)
		golden(t, filepath.Join("testdata", program), got)
		for line := range strings.Lines(got) {
			if n := len(strings.TrimSuffix(line, "\n")); n > helpWidth {
				t.Errorf("%d columns: %q", n, line)
			}
		}
		s.colors = true
		if coloured := texts(s); !strings.Contains(coloured, "\x1b[1mUsage\x1b[0m\n") {
			t.Errorf("--colors: %.200q", coloured)
		}
	}
}

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s has changed (go test ./cli -update writes it):\n%s", path, got)
	}
}

// evermore --help | head -1
func TestNobodyReads(t *testing.T) {
	evermore := called(t, "evermore")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	for _, args := range [][]string{{"--help"}, {"--version"}, {"--bogus"}, {"completion", "bash"}} {
		cmd := exec.Command(evermore, args...)
		var other bytes.Buffer
		cmd.Stdout, cmd.Stderr = w, &other
		if args[0] == "--bogus" {
			cmd.Stdout, cmd.Stderr = &other, w
		}
		err := cmd.Run()
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		ended := status.Signaled() && status.Signal() == syscall.SIGPIPE
		if args[0] == "--bogus" { // an error nobody reads is one all the same
			ended = status.ExitStatus() == codeUsage
		}
		if !ended || other.Len() > 0 {
			t.Errorf("%q: %v, and it said %q", args, err, other.String())
		}
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		missing(t, "/dev/full", err)
	}
	defer full.Close()
	cmd := exec.Command(evermore, "--version")
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = full, &errs
	if cmd.Run(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(errs.String(), "no space left on device") {
		t.Errorf("a full disk: code %d, %q", cmd.ProcessState.ExitCode(), errs.String())
	}
}

// BenchmarkPlainRun is what a run pays for its command line.
func BenchmarkPlainRun(b *testing.B) {
	for b.Loop() {
		s := newSettings("evermore")
		s.main([]string{"--", "node", "server.js"}, os.Getenv, func(*settings) int { return 0 })
	}
}
