package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestFleet has many daemons. Its figures go to the log of the test.
func TestFleet(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	const count = 200
	static := filepath.Join(binaries, "evermore-static")
	h.file("app.sh", "exec sleep 100000\n")
	list := func() time.Duration {
		t.Helper()
		best := time.Hour
		for range 3 {
			began := time.Now()
			h.ok(static, "list")
			best = min(best, time.Since(began))
		}
		return best.Round(time.Millisecond)
	}
	h.ok(static, "start", "--uid", "app0", "-c", "sh", "app.sh")
	one := list()

	var apps []string
	for i := 1; i < count; i++ {
		apps = append(apps, fmt.Sprintf(`{"uid": "app%d", "script": "app.sh", "command": "sh"}`, i))
	}
	h.file("apps.json", "["+strings.Join(apps, ",\n")+"]")
	began := time.Now()
	h.ok(static, "start", "apps.json")
	t.Logf("start of %d took %s", count-1, time.Since(began).Round(time.Millisecond))

	rows := h.list()
	seen := map[string]bool{}
	for _, r := range rows {
		if r.Status != "running" || !h.lives(r.PID) {
			t.Errorf("%+v", r)
		}
		seen[r.UID] = true
	}
	if len(seen) != count {
		t.Errorf("list has %d of %d apps", len(seen), count)
	}
	t.Logf("list of 1 took %s, of %d %s, with entering the namespace", one, count, list())

	status, err := os.ReadFile("/proc/" + strconv.Itoa(h.init.outside(h.app("app0").Supervisor)) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a daemon has %s", strings.Join(regexp.MustCompile(`(?m)^(VmRSS|RssAnon):.*$`).FindAllString(string(status), -1), ", "))

	began = time.Now()
	h.ok(static, "stopall")
	t.Logf("stopall took %s", time.Since(began).Round(time.Millisecond))
	h.isEmpty()
}
