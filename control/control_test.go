package control

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"evermore/reaper"
)

// TestMain lets the test binary play other processes; see role.
func TestMain(m *testing.M) {
	switch os.Getenv("CONTROL_TEST_ROLE") {
	case "":
		os.Exit(m.Run())
	case "supervisor":
		playSupervisor()
	case "client":
		playClient()
	case "lock":
		playLock()
	case "full":
		playFull()
	case "short":
		playShort()
	case "squatter":
		playSquatter()
	}
}

// role makes a command of the test binary that plays a part: each says a line when
// it has begun and waits for the end of its stdin.
func role(name string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe") // whoever runs it: its folder may be closed to others
	cmd.Env = append(os.Environ(), "CONTROL_TEST_ROLE="+name)
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// begin starts a role and gives the line that it says; end lets it end in order.
func begin(t *testing.T, cmd *exec.Cmd) (said string, end func()) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	said, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("it said %q, %v", said, err)
	}
	return strings.TrimSuffix(said, "\n"), func() { in.Close(); cmd.Wait() }
}

// playSupervisor registers, and serves where a fake one is to be asked.
func playSupervisor() {
	root, err := Root()
	var entry *Registration
	if err == nil {
		entry, err = Register(Record{HTTP: os.Getenv("CONTROL_TEST_HTTP")}, root)
	}
	if err == nil && os.Getenv("CONTROL_TEST_SERVE") != "" {
		_, err = Serve(entry, newFake())
	}
	fmt.Println(err)
	io.Copy(io.Discard, os.Stdin)
	if err == nil {
		entry.Remove()
	}
}

// supervisor starts one; end lets it end in order.
func supervisor(t *testing.T, root, http string, env ...string) (cmd *exec.Cmd, end func()) {
	t.Helper()
	cmd = role("supervisor", append(env, "EVERMORE_ROOT="+root, "CONTROL_TEST_HTTP="+http)...)
	said, end := begin(t, cmd)
	if said != "<nil>" {
		t.Fatalf("the supervisor said %q", said)
	}
	return cmd, end
}

func addresses(t *testing.T, root string) string {
	t.Helper()
	records, err := list([]candidate{{root, true}, {root, true}})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, r := range records {
		found = append(found, fmt.Sprintf("%d %s", r.PID, r.HTTP))
	}
	return strings.Join(found, ", ")
}

func files(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestRunning(t *testing.T) {
	root := filepath.Join(t.TempDir(), "made", "by", "evermore")
	a, endA := supervisor(t, root, "127.0.0.1:1")
	one := fmt.Sprintf("%d 127.0.0.1:1", a.Process.Pid)
	if got := addresses(t, root); got != one {
		t.Errorf("one runs: got %q, want %q", got, one)
	}
	for path, mode := range map[string]os.FileMode{root: 0o700, root + "/run": 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode(), err, mode)
		}
	}

	b, _ := supervisor(t, root, "127.0.0.1:2")
	if got := addresses(t, root); strings.Count(got, ",") != 1 {
		t.Errorf("two run: got %q", got)
	}
	entries, _ := os.ReadDir(root + "/run")
	for _, e := range entries {
		if info, _ := e.Info(); info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, want 0600", e.Name(), info.Mode())
		}
	}

	// One that is killed leaves its record, which is known for dead: also while
	// nobody has reaped it.
	b.Process.Kill()
	for state := byte(0); state != 'Z'; {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		state = stat[strings.LastIndexByte(string(stat), ')')+2]
	}
	if got := addresses(t, root); got != one {
		t.Errorf("one was killed: got %q, want %q", got, one)
	}
	if n := files(t, root+"/run"); n != 1 {
		t.Errorf("%d records are left, want 1", n)
	}

	endA()
	if n := files(t, root+"/run"); n != 0 {
		t.Errorf("a supervisor that ended left %d records", n)
	}
}

func TestJudge(t *testing.T) {
	var here Record
	if err := here.identify(); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*Record)) Record {
		r := here
		change(&r)
		return r
	}
	tests := map[string]struct {
		record Record
		want   Status
	}{
		"this one":                      {here, Running},
		"pid 1":                         {with(func(r *Record) { r.PID = 1 }), dead},
		"a pid that is used again":      {with(func(r *Record) { r.StartTime++ }), dead},
		"a pid that is not used":        {with(func(r *Record) { r.PID = 1 << 30 }), dead},
		"before it was renamed":         {with(func(r *Record) { r.Host = "other" }), Running},
		"before the reboot":             {with(func(r *Record) { r.Boot = "other" }), dead},
		"another host":                  {with(func(r *Record) { r.Host, r.Boot = "other", "other" }), Elsewhere},
		"another container":             {with(func(r *Record) { r.Namespace = "1"; r.PID = 1 << 30 }), Elsewhere},
		"another container, other host": {with(func(r *Record) { r.Namespace, r.Host = "1", "other" }), Elsewhere},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := here.judge(&test.record); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			// What is dead is deleted, what is elsewhere is left alone.
			root := t.TempDir()
			if err := os.Mkdir(filepath.Join(root, "run"), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, root, test.record)
			records, err := listIn(root)
			if err != nil || len(records) == 1 != (test.want != dead) || len(records) == 1 && records[0].Status != test.want {
				t.Errorf("listed: %+v, %v", records, err)
			}
			if _, err := os.Stat(test.record.path(root)); (err != nil) != (test.want == dead) {
				t.Errorf("the record: %v", err)
			}
		})
	}
}

// What is no record is neither listed nor deleted.
func TestForeignFiles(t *testing.T) {
	root := t.TempDir()
	entry, err := Register(Record{}, root)
	if err != nil {
		t.Fatal(err)
	}
	entry.Remove()
	for name, text := range map[string]string{
		"notes.txt": "hello", "broken.json": "{", "other.json": `{"pid": 7}`, "negative.json": `{"pid": -1}`,
	} {
		if err := os.WriteFile(filepath.Join(root, "run", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := addresses(t, root); got != "" {
		t.Errorf("got %q", got)
	}
	if n := files(t, root+"/run"); n != 4 {
		t.Errorf("%d files are left, want 4", n)
	}
}

func TestRoot(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"home", "xdg", "run", "shm", "elsewhere"} {
		if err := os.Mkdir(path(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"shared": 0o777, "group": 0o770, "readable": 0o755} {
		if err := os.Mkdir(path(name), mode); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path(name), mode) // whatever the umask
	}
	os.WriteFile(path("file"), nil, 0o600)
	os.Symlink(path("elsewhere"), path("link"))
	shm := path(fmt.Sprintf("shm/evermore-%d", os.Geteuid()))

	tests := map[string]struct {
		env  map[string]string
		run  string
		want string
	}{
		"EVERMORE_ROOT":            {map[string]string{"EVERMORE_ROOT": path("a/b"), "FOREVER_ROOT": path("c")}, "run", path("a/b")},
		"FOREVER_ROOT":             {map[string]string{"FOREVER_ROOT": path("c"), "HOME": path("home")}, "run", path("c")},
		"home":                     {map[string]string{"HOME": path("home"), "XDG_RUNTIME_DIR": path("xdg")}, "run", path("home/.evermore")},
		"a home that is not there": {map[string]string{"HOME": path("none"), "XDG_RUNTIME_DIR": path("xdg")}, "run", path("xdg/evermore")},
		"run":                      {nil, "run", path("run/evermore")},
		"shared memory":            {nil, "none", shm},
		"readable by others":       {map[string]string{"EVERMORE_ROOT": path("readable")}, "run", path("readable")},
		"writable by all":          {map[string]string{"EVERMORE_ROOT": path("shared")}, "run", path("run/evermore")},
		"writable by the group":    {map[string]string{"EVERMORE_ROOT": path("group")}, "run", path("run/evermore")},
		"a symbolic link":          {map[string]string{"EVERMORE_ROOT": path("link")}, "run", path("run/evermore")},
		"a file":                   {map[string]string{"EVERMORE_ROOT": path("file")}, "run", path("run/evermore")},
		"below a file":             {map[string]string{"EVERMORE_ROOT": path("file/x")}, "run", path("run/evermore")},
		"empty variables":          {map[string]string{"EVERMORE_ROOT": "", "FOREVER_ROOT": "", "HOME": ""}, "run", path("run/evermore")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			getenv := func(name string) string { return test.env[name] }
			got, err := firstUsable(candidates(getenv, path(test.run), path("shm")))
			if err != nil || got != test.want {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}

	t.Run("none", func(t *testing.T) {
		getenv := func(name string) string { return map[string]string{"EVERMORE_ROOT": path("shared")}[name] }
		got, err := firstUsable(candidates(getenv, path("none"), path("none")))
		if err == nil {
			t.Fatalf("got %q", got)
		}
		for _, want := range []string{"EVERMORE_ROOT names one", path("shared") + " can be written by others", path("none/evermore")} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %q", err)
		}
	})

	t.Run("somebody else's", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root can give a folder away")
		}
		os.Mkdir(path("theirs"), 0o700)
		os.Chown(path("theirs"), 65534, 65534)
		if err := writable(path("theirs")); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
			t.Errorf("got %v", err)
		}
	})
}

// A read-only file system says no only when it is written to, or by access(2).
func TestReadOnlyRoot(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"fixed", "home"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("unshare", "-rm", "sh", "-c",
		`mount -t tmpfs -o ro,mode=700 tmpfs "$EVERMORE_ROOT" && exec "$0" </dev/null`, os.Args[0])
	cmd.Env = append(os.Environ(), "CONTROL_TEST_ROLE=supervisor", "EVERMORE_ROOT="+dir+"/fixed", "HOME="+dir+"/home")
	var told bytes.Buffer
	cmd.Stderr = &told // the runtime of a test under coverage speaks there, too
	out, err := cmd.Output()
	if err != nil && strings.Contains(told.String(), "unshare") && os.Getenv("CI") == "" {
		t.Skipf("no namespaces here: %s", told.String())
	}
	if err != nil || string(out) != "<nil>\n" {
		t.Fatalf("%s%s, %v", out, told.String(), err)
	}
	if _, err := os.Stat(dir + "/home/.evermore/run"); err != nil {
		t.Error(err)
	}
}

// A relative root is a folder of the working directory, as forever has it.
func TestRelativeRoot(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("EVERMORE_ROOT", "state")
	got, err := Root()
	if err != nil || got != filepath.Join(dir, "state") {
		t.Errorf("got %q, %v", got, err)
	}
}

// A process may be called anything.
func TestStartTimeOfOddName(t *testing.T) {
	dir := t.TempDir()
	odd := filepath.Join(dir, "a) Z 1 (b")
	if err := os.Symlink("/bin/sleep", odd); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(odd, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	mine, err := reaper.StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	its, err := reaper.StartTime(cmd.Process.Pid)
	if err != nil || its < mine {
		t.Errorf("it began at %d (%v), before its parent at %d", its, err, mine)
	}
}
