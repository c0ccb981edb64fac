package cli

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/creack/pty"
)

// forever's heads: the text begins in column 10.
func TestLine(t *testing.T) {
	for l, want := range map[level]string{
		levelError: "\x1b[31merror\x1b[39m:   text\n",
		levelWarn:  "\x1b[33mwarn\x1b[39m:    text\n",
		levelHelp:  "\x1b[36mhelp\x1b[39m:    text\n",
	} {
		if got := line(l, "text", true); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		plain := line(l, "text", false)
		if strings.Index(plain, "text") != 9 || strings.Contains(plain, "\x1b") {
			t.Errorf("got %q", plain)
		}
	}
}

func TestProgramName(t *testing.T) {
	for _, test := range []struct {
		argv []string
		want string
	}{
		{nil, "evermore"},
		{[]string{"evermore"}, "evermore"},
		{[]string{"/usr/bin/forever"}, "forever"},
		{[]string{"./em"}, "evermore"},
		{[]string{""}, "evermore"},
		{[]string{"/opt/forever/evermore"}, "evermore"},
	} {
		if got := programName(test.argv); got != test.want {
			t.Errorf("%q: got %s", test.argv, got)
		}
	}
}

// Colours are for terminals, unless somebody has said otherwise.
func TestColours(t *testing.T) {
	evermore := called(t, "evermore")
	coloured := func(terminal bool, env string, args ...string) bool {
		cmd := exec.Command(evermore, append(args, "nope.js")...)
		cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=", env)
		var out []byte
		if terminal {
			tty, err := pty.Start(cmd)
			if err != nil {
				missing(t, "a terminal", err)
			}
			defer tty.Close()
			out, _ = io.ReadAll(tty) // EIO when the last program has gone
			cmd.Wait()
		} else {
			out, _ = cmd.CombinedOutput()
		}
		if !strings.Contains(string(out), "does not exist") {
			t.Fatalf("%q", out)
		}
		return strings.Contains(string(out), "\x1b[31merror\x1b[39m:   script")
	}
	tests := []struct {
		terminal bool
		env      string
		args     []string
		want     bool
	}{
		{true, "", nil, true},
		{false, "", nil, false},
		{true, "NO_COLOR=1", nil, false},
		{true, "TERM=dumb", nil, false},
		{true, "", []string{"--no-colors"}, false},
		{true, "", []string{"--plain"}, false},
		{true, "EVERMORE_COLORS=false", nil, false},
		{true, "NO_COLOR=1", []string{"--colors"}, true},
		{false, "", []string{"--colors"}, true},
		{false, "EVERMORE_COLORS=true", nil, true},
		{false, "EVERMORE_COLORS=true", []string{"--plain"}, false},
	}
	for _, test := range tests {
		if got := coloured(test.terminal, test.env, test.args...); got != test.want {
			t.Errorf("terminal %v, %s %q: coloured %v", test.terminal, test.env, test.args, got)
		}
	}
}
