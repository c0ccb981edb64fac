package forever_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

const (
	// sessionEnv names the folder of the session to run in this process.
	sessionEnv = "EVERMORE_TEST_SESSION"
	// patience is how long a condition may take to come true, and a command to
	// end, on a machine that is busy with other things.
	patience = 30 * time.Second
	// prompt is how long a command may take that forever never ends.
	prompt = 5 * time.Second
)

// session is one shell session, a file in testdata/sessions: an archive whose
// comment is a list of commands and whose files are beside the apps in the
// working directory. Every line is a step, run by a shell of its own; but
//
//	# TEXT         says something
//	until COMMAND  waits until the command succeeds
//	brief COMMAND  is a step that forever may never end: it is soon given up
//	keep WHAT      leaves spaces or colours in the whole session as they are
//
// Commands have, beside HOME and FOREVER_ROOT, ROOT, the same, and WORK, the
// working directory, and can call
//
//	running N [D]  succeeds while N supervisors listen below D, or ROOT
//	ended PIDFILE  succeeds when no process has the pid in the file
//	evermore       succeeds where forever is evermore
type session struct {
	name  string
	text  string
	files []txtar.File
}

func readSessions(t *testing.T) []session {
	t.Helper()
	names, err := filepath.Glob("testdata/sessions/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no sessions: %v", err)
	}
	var all []session
	for _, name := range names {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, session{
			name:  strings.TrimSuffix(filepath.Base(name), ".txtar"),
			text:  string(archive.Comment),
			files: archive.Files,
		})
	}
	return all
}

// helpers are the commands of sessions. A socket in /proc/net/unix listens where
// the flag __SO_ACCEPTCON is set (proc_net_unix(5)); evermore binds it by a path
// that leads through /proc.
var helpers = map[string]string{
	"running": `#!/bin/sh
n=0
for s in "${2:-$ROOT}"/sock/*.sock; do
	test -S "$s" && grep -q " 00010000 .*/${s##*/}$" /proc/net/unix && n=$((n + 1))
done
test $n = "$1"
`,
	"ended": `#!/bin/sh
test -s "$1" && ! kill -0 "$(cat "$1")" 2>/dev/null
`,
	"evermore": `#!/bin/sh
readlink "$(command -v forever)" | grep -q '/evermore$'
`,
}

// outcome is what a step has said and how it ended; what the process that runs
// a session tells the test.
type outcome struct {
	Command        string
	Stdout, Stderr string
	Code           int
	Hangs          bool
}

// run runs the session with an executable as forever, in a namespace of pids
// that ends with it, and all its daemons too.
func (s session) run(t *testing.T, forever string) transcript {
	t.Helper()
	// Not t.TempDir: the path of a socket has at most 107 bytes.
	dir, err := os.MkdirTemp("", "fe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.prepare(dir, forever); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// The shell is PID 1: while it waits it reaps the daemons that end.
	cmd := exec.CommandContext(ctx, "unshare", append(unshareFlags(), "sh", "-c", `"$0" & wait $!`, self)...)
	cmd.Env = append(os.Environ(), sessionEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(dir, "outcomes"))
	if err != nil {
		t.Fatal(err)
	}
	var outcomes []outcome
	if err := json.Unmarshal(data, &outcomes); err != nil {
		t.Fatal(err)
	}
	n, err := newNormaliser(dir, forever, s.text)
	if err != nil {
		t.Fatal(err)
	}
	var tr transcript
	for _, o := range outcomes {
		tr = append(tr, n.step(o))
	}
	return tr
}

func unshareFlags() []string {
	flags := []string{"--pid", "--fork", "--mount-proc", "--kill-child"}
	if os.Geteuid() != 0 {
		flags = append(flags, "--user", "--map-root-user")
	}
	return flags
}

// prepare lays out the folder of a session: its text, the commands it can call,
// its home and its working directory.
func (s session) prepare(dir, forever string) error {
	node, err := exec.LookPath("node")
	if err != nil {
		return err
	}
	for _, sub := range []string{"bin", "home", "work"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	bin, work := filepath.Join(dir, "bin"), filepath.Join(dir, "work")
	errs := []error{
		os.WriteFile(filepath.Join(dir, "session"), []byte(s.text), 0o644),
		os.Symlink(forever, filepath.Join(bin, "forever")),
		os.Symlink(node, filepath.Join(bin, "node")),
		os.CopyFS(work, os.DirFS("testdata/apps")),
	}
	for name, text := range helpers {
		errs = append(errs, os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755))
	}
	for _, f := range s.files {
		path := filepath.Join(work, f.Name)
		errs = append(errs, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, f.Data, 0o644))
	}
	return errors.Join(errs...)
}

// runHere runs the session that was prepared in dir and leaves the outcomes
// there.
func runHere(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "session"))
	if err != nil {
		return err
	}
	var outcomes []outcome
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		verb, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "", verb == "#", verb == "keep":
			continue
		case verb == "until":
			if err := until(dir, rest); err != nil {
				return fmt.Errorf("%w, after %+v", err, outcomes[max(0, len(outcomes)-2):])
			}
			continue
		}
		limit := patience
		if verb == "brief" {
			line, limit = rest, prompt
		}
		o, err := perform(dir, line, limit)
		if err != nil {
			return err
		}
		outcomes = append(outcomes, o)
	}
	data, err := json.Marshal(outcomes)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "outcomes"), data, 0o644)
}

func until(dir, command string) error {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		o, err := perform(dir, command, patience)
		if err != nil {
			return err
		}
		if o.Code == 0 && !o.Hangs {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("never true: %s", command)
}

// perform runs one step. Its output goes to files: daemons would hold pipes open.
func perform(dir, command string, limit time.Duration) (outcome, error) {
	o := outcome{Command: command}
	var files []*os.File
	for _, name := range []string{"stdout", "stderr"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return o, err
		}
		defer f.Close()
		files = append(files, f)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	root := filepath.Join(dir, "root")
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Dir = filepath.Join(dir, "work")
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	cmd.Env = []string{
		"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH"),
		"HOME=" + filepath.Join(dir, "home"),
		"FOREVER_ROOT=" + root,
		"ROOT=" + root,
		"WORK=" + cmd.Dir,
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		o.Hangs = true
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return o, err
	}
	o.Code = cmd.ProcessState.ExitCode()
	for i, text := range []*string{&o.Stdout, &o.Stderr} {
		data, err := os.ReadFile(files[i].Name())
		if err != nil {
			return o, err
		}
		*text = string(data)
	}
	return o, nil
}

// transcript is what a session has said, as it is recorded:
//
//	$ COMMAND
//	1> a line on stdout
//	2> a line on stderr
//	exit CODE, or: hangs
type transcript []step

type step struct {
	command string
	lines   []string
}

func (tr transcript) String() string {
	var b strings.Builder
	for _, s := range tr {
		fmt.Fprintf(&b, "$ %s\n%s\n", s.command, strings.Join(s.lines, "\n"))
	}
	return b.String()
}

func transcriptPath(version, session string) string {
	return filepath.Join("testdata", version, session+".txt")
}

func (tr transcript) save(version, session string) error {
	path := transcriptPath(version, session)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(tr.String()), 0o644)
}

// recorded gives what a version of forever has said in a session.
func recorded(version, session string) (transcript, error) {
	data, err := os.ReadFile(transcriptPath(version, session))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: go test -record makes it", err)
	}
	if err != nil {
		return nil, err
	}
	var tr transcript
	for line := range strings.SplitSeq(strings.TrimSuffix(string(data), "\n"), "\n") {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			tr = append(tr, step{command: command})
			continue
		}
		last := &tr[len(tr)-1]
		last.lines = append(last.lines, line)
	}
	return tr, nil
}
