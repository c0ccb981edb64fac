package early

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestCommand(t *testing.T) {
	for _, c := range []struct {
		name      string
		args, env []string
		ok        bool
	}{
		{"the ENTRYPOINT form", []string{"evermore", "--", "node", "a.js"}, []string{"PATH=/bin", "EVERMORE_RUN_ID=x"}, true},
		{"a folder for evermore's state", []string{"evermore", "--", "node"}, []string{"EVERMORE_ROOT=/srv/state"}, true},
		{"an option of the command's own", []string{"evermore", "--", "node", "--version"}, nil, true},
		{"a script", []string{"evermore", "a.js"}, nil, false},
		{"an option", []string{"evermore", "-v", "--", "node"}, nil, false},
		{"nothing behind the dashes", []string{"evermore", "--"}, nil, false},
		{"an empty command", []string{"evermore", "--", ""}, nil, false},
		{"no arguments", nil, nil, false},
		{"a variable of an option", []string{"evermore", "--", "node"}, []string{"EVERMORE_MAX=3"}, false},
		{"a variable that might be one", []string{"evermore", "--", "node"}, []string{"EVERMORE_SERVICE_HOST=x"}, false},
		{"a service manager", []string{"evermore", "--", "node"}, []string{"NOTIFY_SOCKET=@x"}, false},
		{"its watchdog", []string{"evermore", "--", "node"}, []string{"WATCHDOG_USEC=1"}, false},
		{"its sockets", []string{"evermore", "--", "node"}, []string{"LISTEN_FDS=1"}, false},
	} {
		got, ok := Command(c.args, c.env)
		if ok != c.ok {
			t.Errorf("%s: %v", c.name, ok)
		}
		if ok && (!slices.Equal(got.Argv, c.args[2:]) || !slices.Equal(got.Env, c.env)) {
			t.Errorf("%s: got %+v", c.name, got)
		}
	}
}

// The package is worth its place only while it is initialized before the slow
// ones. Without a terminal, "evermore -- true" is begun by it.
func TestOrder(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "evermore")
	build := exec.Command("go", "build", "-o", binary, "evermore")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run := exec.Command(binary, "--", "true")
	run.Env = []string{"GODEBUG=inittrace=1", "PATH=/usr/bin:/bin"}
	run.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	trace, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, trace)
	}
	at := func(name string) int {
		i := strings.Index(string(trace), "init "+name+" @")
		if i < 0 {
			t.Fatalf("%s is not initialized\n%s", name, trace)
		}
		return i
	}
	early := at("evermore/early")
	for _, slow := range []string{"net", "google.golang.org/protobuf/types/known/timestamppb", "github.com/prometheus/procfs", "github.com/prometheus/client_golang/prometheus"} {
		if at(slow) < early {
			t.Errorf("%s is initialized before evermore/early: one of its imports comes late", slow)
		}
	}
}
