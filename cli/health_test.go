package cli

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"evermore/control"
)

// answers is an HTTP server that gives each path a status and a body; it gives
// its address.
func answers(t *testing.T, network string, paths map[string]string) string {
	t.Helper()
	l, err := net.Listen("tcp", network)
	if err != nil {
		missing(t, network, err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := paths[r.URL.Path]
		if !ok || r.Method != http.MethodGet {
			http.NotFound(w, r)
			return
		}
		code := http.StatusOK
		if strings.HasPrefix(answer, "!") {
			code, answer = http.StatusServiceUnavailable, answer[1:]
		}
		w.WriteHeader(code)
		fmt.Fprint(w, answer)
	}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	return l.Addr().String()
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

func TestHealth(t *testing.T) {
	healthy := answers(t, "127.0.0.1:0", map[string]string{"/readyz": "ok\n", "/livez": "ok\n"})
	unready := answers(t, "127.0.0.1:0", map[string]string{
		"/readyz": "!ready failed: waiting 3s before the next start\x1b[2J\nmore\n", "/livez": "ok\n",
	})
	dead := answers(t, "127.0.0.1:0", map[string]string{"/readyz": "ok\n", "/livez": "!loop failed: it does not answer: timeout\n"})
	strange := answers(t, "127.0.0.1:0", nil)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed := closedPort(t)

	tests := []struct {
		args string
		env  string
		code int
		out  string
		errs string
	}{
		{"--http " + healthy, "", 0, "ready\n", ""},
		{"--ready --http " + healthy, "", 0, "ready\n", ""},
		{"--live --http=" + healthy, "", 0, "live\n", ""},
		{"", "EVERMORE_HTTP=" + healthy, 0, "ready\n", ""},
		{"--http " + healthy, "EVERMORE_HTTP=" + closed, 0, "ready\n", ""},
		{"--http " + port(healthy), "", 0, "ready\n", ""},
		{"--http :" + port(healthy), "", 0, "ready\n", ""},
		{"--http 0.0.0.0:" + port(healthy), "", 0, "ready\n", ""},
		{"--http [::]:" + port(healthy), "", 0, "ready\n", ""},
		{"--http localhost:" + port(healthy), "", 0, "ready\n", ""},
		{"--http " + unready, "", 1, "", "error:   not ready: waiting 3s before the next start[2J\n"},
		{"--live --http " + unready, "", 0, "live\n", ""},
		{"--http " + dead, "", 0, "ready\n", ""},
		{"--live --http " + dead, "", 1, "", "error:   not live: loop failed: it does not answer: timeout\n"},
		{"--http " + strange, "", 1, "", "error:   " + strange + " answered /readyz with 404: is this evermore?\n"},
		{"--http " + closed, "", 1, "", "error:   cannot ask " + closed + ": connection refused\n"},
		{"--timeout 200 --http " + silent.Addr().String(), "", 1, "", "error:   cannot ask " + silent.Addr().String() + ": no answer in time\n"},
		{"--http off", "", 1, "", "error:   --http is off: there is nothing to ask\n"},
		{"", "EVERMORE_HTTP=off", 1, "", "error:   EVERMORE_HTTP is off: there is nothing to ask\n"},
	}
	for _, test := range tests {
		name, value, _ := strings.Cut(test.env, "=")
		_, out, errs, code := call(t, map[string]string{name: value}, append([]string{"health"}, strings.Fields(test.args)...)...)
		if code != test.code || out != test.out || errs != test.errs {
			t.Errorf("%s %s: code %d\nstdout %q, want %q\nstderr %q, want %q", test.args, test.env, code, out, test.out, errs, test.errs)
		}
	}
	// Something that is no HTTP.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "SSH-2.0-x\r\n")
			// A close with the question unread would be a reset.
			bufio.NewReader(conn).ReadString('\n')
			conn.Close()
		}
	}()
	if _, _, errs, code := call(t, nil, "health", "--http", l.Addr().String()); code != 1 || !strings.HasPrefix(errs, "error:   cannot ask "+l.Addr().String()+": ") || !strings.HasSuffix(errs, "malformed HTTP response \"SSH-2.0-x\"\n") {
		t.Errorf("no HTTP: code %d, %q", code, errs)
	}
}

// What listens on [::1] alone is found by its port too.
func TestHealthByIPv6(t *testing.T) {
	address := answers(t, "[::1]:0", map[string]string{"/readyz": "ok\n"})
	if _, out, errs, code := call(t, nil, "health", "--http", port(address)); out != "ready\n" || code != 0 {
		t.Errorf("code %d, stdout %q, stderr %q", code, out, errs)
	}
}

// Without an address the supervisor's own record tells it.
func TestHealthByRecord(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	t.Setenv("EVERMORE_ROOT", root)
	t.Setenv("EVERMORE_HTTP", "")
	t.Setenv("HOME", root)
	evermore := called(t, "evermore")
	healthy := answers(t, "127.0.0.1:0", map[string]string{"/readyz": "ok\n"})
	expect := func(what, out, errs string, env ...string) {
		t.Helper()
		gotOut, gotErrs, _ := execute(t, env, evermore, "health")
		if gotOut != out || gotErrs != errs {
			t.Errorf("%s: stdout %q, stderr %q; want %q, %q", what, gotOut, gotErrs, out, errs)
		}
	}
	record := func(http string) func() {
		t.Helper()
		root, err := control.Root()
		if err != nil {
			t.Fatal(err)
		}
		entry, err := control.Register(control.Record{HTTP: http}, root)
		if err != nil {
			t.Fatal(err)
		}
		return entry.Remove
	}

	remove := record("0.0.0.0:" + port(healthy))
	expect("one", "ready\n", "")
	expect("any free port was asked for", "ready\n", "", "EVERMORE_HTTP=127.0.0.1:0")
	remove()
	remove = record("")
	expect("one that does not listen", "", fmt.Sprintf("error:   the supervisor with pid %d does not listen: it was told --http off, or its address was taken\n", os.Getpid()))
	remove()

	// None, then the default of containers; it may even run on this host.
	s := newSettings("evermore")
	if got, err := s.healthAddresses(); err != nil || fmt.Sprint(got) != "[127.0.0.1:9797]" {
		t.Errorf("none: got %v, %v", got, err)
	}
}

func TestChooseRecord(t *testing.T) {
	r := func(pid int, http string) control.Entry {
		return control.Entry{Record: control.Record{PID: pid, HTTP: http}, Status: control.Running}
	}
	tests := []struct {
		records []control.Entry
		want    string
	}{
		{nil, "127.0.0.1:9797"},
		{[]control.Entry{r(7, "a:1")}, "a:1"},
		{[]control.Entry{r(7, "a:1"), r(1, "b:1")}, "b:1"},
		{[]control.Entry{r(1, "b:1"), r(7, "a:1"), r(8, "")}, "b:1"},
		{[]control.Entry{r(7, "a:1"), r(8, "b:1")}, "2 supervisors are running: name the address of one with --http"},
		{[]control.Entry{r(7, "a:1"), {Record: control.Record{PID: 8, HTTP: "b:1"}, Status: control.Stopped}}, "a:1"},
		{[]control.Entry{r(7, ""), r(1, "")}, "the supervisor with pid 1 does not listen: it was told --http off, or its address was taken"},
	}
	for _, test := range tests {
		got, err := chooseAddress(test.records)
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%v: got %q, want %q", test.records, got, test.want)
		}
	}
}
