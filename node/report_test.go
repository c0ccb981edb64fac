package node

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// nodes are all versions of node there are to try: that of the PATH, and those
// that EVERMORE_TEST_NODES lists with colons between them.
func nodes(t *testing.T) []string {
	t.Helper()
	all := filepath.SplitList(os.Getenv("EVERMORE_TEST_NODES"))
	if path, err := exec.LookPath("node"); err == nil {
		all = append(all, path)
	} else if os.Getenv("CI") == "true" {
		t.Fatal("node is missing: apt-get install nodejs")
	}
	if len(all) == 0 {
		t.Skip("node is missing")
	}
	return all
}

// run runs a script to its end and gives its pid and exit code.
func run(t *testing.T, node string, r *Reports, env []string, args ...string) (pid, code int) {
	t.Helper()
	cmd := exec.Command(node, append(args, "secret")...)
	cmd.Env = r.Env(append([]string{"PATH=" + os.Getenv("PATH"), "PASSWORD=secret", "HOME=" + t.TempDir()}, env...))
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		return cmd.Process.Pid, 128 + int(s.Signal())
	}
	return cmd.Process.Pid, cmd.ProcessState.ExitCode()
}

func TestReports(t *testing.T) {
	for _, node := range nodes(t) {
		out, err := exec.Command(node, "--version").Output()
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSpace(string(out)), func(t *testing.T) {
			kept := filepath.Join(t.TempDir(), `a "quoted" folder\`, "web")
			r, err := OpenReports(kept, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			for _, c := range []struct {
				name            string
				env, args       []string
				code            int
				exception, heap bool
				message         string
			}{
				{"exception", nil, []string{"-e", `setTimeout(() => { throw new TypeError("boom\nsecond line") })`}, 1, true, false, "TypeError: boom"},
				{"exception with the place before it", nil, []string{"-e", `throw new RangeError("at once")`}, 1, true, false, "RangeError: at once"},
				{"syntax error", nil, []string{"-e", `let x = ;`}, 1, true, false, "SyntaxError: Unexpected token ';'"},
				{"no error at all", nil, []string{"-e", `throw {toString() { return "mine" }}`}, 1, true, false, ""},
				{"a long message", nil, []string{"-e", `throw new Error("\x1b[2J" + "é".repeat(1000))`}, 1, true, false, "Error:  [2J" + strings.Repeat("é", maxMessage-len("Error:  [2J")) + "…"},
				{"rejection", []string{"NODE_OPTIONS="}, []string{"-e", `Promise.reject(new Error("rejected"))`}, 1, true, false, "Error: rejected"},
				{"heap", []string{"NODE_OPTIONS=--max-old-space-size=32"}, []string{"-e", `const a = []; for (;;) a.push(new Array(1000).fill(1.5))`}, 134, false, true, ""},
			} {
				pid, code := run(t, node, r, c.env, c.args...)
				got, err := r.Take(pid)
				if err != nil || got == nil {
					t.Errorf("%s: no report, %v", c.name, err)
					continue
				}
				if code != c.code || got.Exception() != c.exception || got.HeapExhausted() != c.heap || got.Message != c.message {
					t.Errorf("%s: code %d, %+v", c.name, code, got)
				}
				if got.HeapUsed <= 0 || got.HeapLimit < got.HeapUsed {
					t.Errorf("%s: the heap had %d of %d bytes", c.name, got.HeapUsed, got.HeapLimit)
				}
			}
			for _, args := range [][]string{
				{"-e", "process.exit(3)"},
				{"-e", "0"},
				{"-e", "process.abort()"},
				{"-e", `process.on("uncaughtException", () => process.exit(4)); throw new Error("handled")`},
			} {
				pid, code := run(t, node, r, nil, args...)
				if got, err := r.Take(pid); got != nil && (got.Exception() || got.HeapExhausted()) || err != nil {
					t.Errorf("%s: code %d, %+v, %v", args[1], code, got, err)
				}
			}
			check(t, kept)
		})
	}
}

// check looks at what is kept: nothing of it is secret.
func check(t *testing.T, kept string) {
	t.Helper()
	files, err := filepath.Glob(strings.NewReplacer(`\`, `\\`).Replace(kept) + "/*.json")
	if err != nil || len(files) == 0 || len(files) > keptReports {
		t.Errorf("kept are %q, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || strings.Contains(string(text), "secret") || !json.Valid(text) {
			t.Errorf("%s: %v\n%s", file, err, text)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
	}
	for _, dir := range []string{kept, filepath.Join(kept, "new")} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v", dir, info.Mode())
		}
	}
	if left, _ := os.ReadDir(filepath.Join(kept, "new")); len(left) > 0 {
		t.Errorf("not taken were %v", left)
	}
}

// node may run as somebody else, who may not enter evermore's folders.
func TestReportsOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	kept := filepath.Join(t.TempDir(), "web")
	user := &syscall.Credential{Uid: 65534, Gid: 65534}
	r, err := OpenReports(kept, user)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nodes(t)[0], "-e", `throw new Error("boom")`)
	cmd.Env = r.Env([]string{"PATH=" + os.Getenv("PATH")})
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	_ = cmd.Run()
	if got, err := r.Take(cmd.Process.Pid); err != nil || got == nil || got.Message != "Error: boom" {
		t.Errorf("%+v, %v", got, err)
	}
	check(t, kept)

	// The folder is the other user's: what it puts there is not followed.
	victim := filepath.Join(t.TempDir(), "report.20261123.103951.422.0.001.json")
	if err := os.WriteFile(victim, []byte(`{"header":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(r.name, "report.20261123.103951.423.0.001.json")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(r.name, "report.20261123.103951.424.0.001.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{423, 424} {
		if got, _ := r.Take(pid); got != nil {
			t.Errorf("%d: %+v", pid, got)
		}
	}
	if err := os.Rename(r.name, r.name+".moved"); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(r.name + ".moved")
	if err := os.Symlink(filepath.Dir(victim), r.name); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Take(422); got != nil || err != nil {
		t.Errorf("in the place of the folder: %+v, %v", got, err)
	}
	r.Close()
	if _, err := os.Stat(victim); err != nil {
		t.Error(err)
	}
}

func TestHugeAndBrokenReports(t *testing.T) {
	kept := filepath.Join(t.TempDir(), "web")
	r, err := OpenReports(kept, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const name = "report.20261123.103951.7.0.001.json"
	long := strings.Repeat("x\\n", maxPart/2)
	for what, text := range map[string]string{
		"empty": "", "no header": "{}", "another header": `{"header":7}`, "half": `{"header":{"event":`, "half of what goes by": `{"header":{},"libuv":[{`,
		"huge": strings.Repeat(" ", maxReport+1), "an array": "[", "null": "null", "a long part": `{"header":{"event":"` + long + `"}}`,
		"a long word": `{"header":{},"workers":["` + long + `"]}`, "deep": `{"header":{},"workers":` + strings.Repeat("[", maxReport-100),
	} {
		if err := os.WriteFile(filepath.Join(kept, "new", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Take(7); got != nil || err == nil {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
	if left, _ := filepath.Glob(kept + "/*/*"); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
	if left, _ := filepath.Glob(kept + "/*.json"); len(left) > 0 {
		t.Errorf("kept are %q", left)
	}
}

// widest is a reader that knows how much was asked of it at once.
type widest struct {
	io.Reader
	width int
}

func (w *widest) Read(p []byte) (int, error) {
	w.width = max(w.width, len(p))
	return w.Reader.Read(p)
}

// What the app writes is not to make evermore large, nor what it shows.
func TestLargeReport(t *testing.T) {
	connection := `{"type":"tcp","address":"secret","remoteEndpoint":{"host":"secret","port":[1,null,true]}},`
	text := `{"environmentVariables":{"a":"secret"},"later":"header","libuv":[` + strings.Repeat(connection, 50_000) + `{}],` +
		`"header":{"event":"` + strings.Repeat(`\u001b\n`, 1000) + `","trigger":"Exception","cwd":"secret"},"javascriptStack":{"message":"boom"},"workers":[{"header":{"event":"secret"}}]}`
	if !json.Valid([]byte(text)) {
		t.Fatal("the test is wrong")
	}
	reader := &widest{Reader: strings.NewReader(text)}
	report, kept, err := parse(reader)
	if reader.width > 64<<10 {
		t.Errorf("%d bytes are in memory at a time, of %d", reader.width, len(text))
	}
	if err != nil || report.Message != "boom" || strings.Contains(string(kept), "secret") || !json.Valid(kept) {
		t.Fatalf("%+v, %v: %s", report, err, kept)
	}
	if n := len(report.Event); n > 2*maxMessage || strings.ContainsAny(report.Event, "\x1b\n") {
		t.Errorf("the event has %d bytes: %.20q", n, report.Event)
	}
	var decoded struct{ Libuv []any }
	if json.Unmarshal(kept, &decoded) != nil || decoded.Libuv != nil {
		t.Errorf("connections are kept")
	}
}

// Of many reports those of the process and the newest are read.
func TestManyReports(t *testing.T) {
	kept := filepath.Join(t.TempDir(), "web")
	r, err := OpenReports(kept, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range 20 {
		pid := 100 + i
		text := fmt.Sprintf(`{"header":{"event":"of %d"}}`, pid)
		if err := os.WriteFile(filepath.Join(kept, "new", fmt.Sprintf("report.20261123.1039%02d.%d.0.001.json", i, pid)), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.Take(103); err != nil || got == nil || got.Event != "of 103" {
		t.Errorf("%+v, %v", got, err)
	}
	var pids []int
	files, _ := filepath.Glob(kept + "/*.json")
	for _, f := range files {
		pids = append(pids, pidOf(filepath.Base(f)))
	}
	if want := []int{103, 116, 117, 118, 119}; !slices.Equal(pids, want) {
		t.Errorf("kept are %v, not %v", pids, want)
	}
	if left, _ := filepath.Glob(kept + "/new/*"); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

func TestHeapExhausted(t *testing.T) {
	for _, c := range []struct {
		event, trigger string
		want           bool
	}{
		{"Allocation failed - JavaScript heap out of memory", "OOMError", true},
		{"CALL_AND_RETRY_LAST Allocation failed - JavaScript heap out of memory", "FatalError", true},
		{"Ineffective mark-compacts near heap limit Allocation failed", "FatalError", true},
		{"v8::ToLocalChecked Empty MaybeLocal", "FatalError", false},
		{"Exception", "Exception", false},
	} {
		if got := (&Report{Event: c.event, Trigger: c.trigger}).HeapExhausted(); got != c.want {
			t.Errorf("%s, %s: %v", c.event, c.trigger, got)
		}
	}
	if env := (&Reports{name: "/x"}).Env([]string{"NODE_OPTIONS=--own"}); !slices.Contains(env, "NODE_OPTIONS=--report-uncaught-exception --report-on-fatalerror --report-directory=/x --own") {
		t.Errorf("the environment is %q", env)
	}
}
