package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// What a shell is told when it asks.
func TestOffers(t *testing.T) {
	tests := []struct {
		line      string // "·": the empty word that is to be completed
		want      string // some of the answer
		never     string
		directive string // see cobra.ShellCompDirective: 0 files, 4 none, 16 folders
	}{
		{"--min", "--min-uptime\tan app that ends sooner is spinning", "--max", "4"},
		{"--", "--no-kill-tree", "--minUptime", "4"},
		{"-", "-m\trun the app N times at the most", "", "4"},
		{"--restart ·", "always\non-failure\nnever", "", "4"},
		{"--restart=on", "on-failure", "", "4"},
		{"--kill-signal ·", "TERM\n", "SIG", "4"},
		{"--log-format ·", "console\njson", "", "4"},
		{"--working-dir ·", "", "", "16"},
		{"--workingDir ·", "", "", "16"},
		{"-l ·", "", "health", "0"},
		{"--min-uptime ·", "", "health", "4"},
		{"--signal TERM=INT --sig", "--signal\t", "", "4"},
		{"--max 3 --ma", "--max-restarts", "--max\t", "4"},
		{"·", "health\t", "__complete", "0"},
		{"hea", "health\t", "", "0"},
		{"app", "", "health", "0"},
		{"app.js --m", "", "--max", "0"},
		{"-- node --m", "", "--max", "0"},
		{"health --l", "--live", "--log-file", "4"},
		{"health --http ·", "127.0.0.1:9797", "", "4"},
		{"completion ·", "bash\nzsh\nfish", "", "4"},
	}
	for _, test := range tests {
		args := []string{"__complete"}
		for _, word := range strings.Fields(test.line) {
			args = append(args, strings.TrimPrefix(word, "·"))
		}
		_, out, errs, code := call(t, nil, args...)
		if code != 0 || !strings.Contains(out, test.want) || test.never != "" && strings.Contains(out, test.never) ||
			!strings.HasSuffix(out, ":"+test.directive+"\n") {
			t.Errorf("%s: code %d, stderr %s\n%s", test.line, code, errs, out)
		}
	}
}

// Real shells, typed into.
func TestShells(t *testing.T) {
	evermore := called(t, "evermore")
	work := t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "server.js"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	shells := map[string]struct {
		argv  []string
		setup string
	}{
		"bash": {[]string{"bash", "--norc", "--noprofile", "-i"}, ". /usr/share/bash-completion/bash_completion; . <(evermore completion bash)"},
		"zsh":  {[]string{"zsh", "-f", "-i"}, "autoload -Uz compinit; compinit -u -D; . <(evermore completion zsh)"},
		"fish": {[]string{"fish", "--no-config", "-i"}, "evermore completion fish | source"},
	}
	for name, shell := range shells {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(shell.argv[0]); err != nil {
				missing(t, name, err)
			}
			if name == "bash" {
				if _, err := os.Stat("/usr/share/bash-completion/bash_completion"); err != nil {
					missing(t, "bash-completion", err)
				}
			}
			cmd := exec.Command(shell.argv[0], shell.argv[1:]...)
			cmd.Dir = work
			cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(evermore)+":"+os.Getenv("PATH"), "TERM=dumb",
				// A folder would get a history, at any time.
				"HOME=/dev/null", "PS1=> ")
			s := typeInto(t, cmd)
			s.line(shell.setup + "; echo set; echo up")
			s.await("set\r\nup")
			// The answer of the program shows what the shell has made of the line.
			s.line("evermore --min-up\t 2x x")
			s.await(`--min-uptime: cannot read "2x"`)
			s.line("evermore --kill-signal US\t1 --max -7 x")
			s.await(`cannot read "-7" as a number`)
			s.line("evermore comp\t tcsh")
			s.await(`unknown shell "tcsh"`)
			s.line("evermore -m 1 -c 'echo got' ser\t")
			s.await("got " + filepath.Join(work, "server.js"))
			s.never("unknown option")
			s.line("exit")
		})
	}
}

// terminal is a program that is typed into.
type terminal struct {
	t    *testing.T
	file *os.File
	mu   sync.Mutex
	out  bytes.Buffer
	more chan struct{}
	seen int // what was awaited ends here
}

func typeInto(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 200})
	if err != nil {
		missing(t, "a terminal", err)
	}
	s := &terminal{t: t, file: file, more: make(chan struct{}, 1)}
	over := make(chan struct{})
	go func() {
		defer close(over)
		buf := make([]byte, 4096)
		for {
			n, err := file.Read(buf)
			s.mu.Lock()
			s.out.Write(buf[:n])
			s.mu.Unlock()
			select {
			case s.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		file.Close()
		<-over
	})
	return s
}

func (s *terminal) line(text string) {
	s.t.Helper()
	if _, err := s.file.WriteString(text + "\r"); err != nil {
		s.t.Fatal(err)
	}
}

// await waits for a text behind the last one.
func (s *terminal) await(text string) {
	s.t.Helper()
	deadline := time.After(time.Minute)
	for {
		s.mu.Lock()
		rest := s.out.String()[s.seen:]
		if at := strings.Index(rest, text); at >= 0 {
			s.seen += at + len(text)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		select {
		case <-s.more:
		case <-deadline:
			s.t.Fatalf("no %q in:\n%s", text, s.out.String())
		}
	}
}

func (s *terminal) never(text string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.Contains(s.out.String(), text) {
		s.t.Errorf("%q in:\n%s", text, s.out.String())
	}
}
