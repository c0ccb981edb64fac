package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	state "evermore/control"
)

// dying is an app that dies in the way which its argument names, in its first life
// in a container.
const dying = `
'use strict';
const fs = require('fs');
const { spawn } = require('child_process');
const first = !fs.existsSync('/tmp/lived');
fs.writeFileSync('/tmp/lived', '');
console.log('app ' + process.pid + ' of ' + process.ppid + ' is up');
setInterval(() => {}, 1e6);
const eat = 'const held = []; for (;;) held.push(Buffer.alloc(8 << 20, 1))';
const ways = {
  buffers: () => eval(eat),
  heap: () => { const held = []; for (;;) held.push(new Array(1000).fill(1.5)); },
  exception: () => { null.x; },
  child: () => spawn(process.execPath, ['-e', eat], { stdio: 'ignore' }).on('exit', (code, signal) => console.log('its child died of ' + signal)),
  busy: () => { for (const end = Date.now() + 3000; Date.now() < end;); process.exit(4); },
  crash: () => process.exit(5),
};
if (first || process.argv[2] === 'always') setTimeout(ways[process.argv[1]] || (() => {}), 100);
`

// TestDeaths has apps die in containers, and looks at what evermore says of it.
func TestDeaths(t *testing.T) {
	p := inContainers(t)
	t.Chdir(t.TempDir()) // conmon leaves a file "oom" where podman was called
	dies := func(t *testing.T, options []string, how ...string) *container {
		return p.start(t, append([]string{"--env", "EVERMORE_MIN_UPTIME=0"}, options...), append([]string{"node", "-e", dying, "--"}, how...)...)
	}

	t.Run("out of memory", func(t *testing.T) {
		// Swap would have the app die of patience.
		c := dies(t, []string{"--memory", "128m", "--memory-swap", "128m"}, "buffers")
		before, _ := c.awaitUp(1)
		after, evermore := c.awaitUp(2)
		if before == after || evermore != 1 {
			t.Errorf("the app was %d and is %d, of %d", before, after, evermore)
		}
		c.awaitLog("(oom: it used")
		if !regexp.MustCompile(`"reason":"oom","code":137,"signal":"SIGKILL".*\(oom: it used \d+ MiB at its peak, the limit is 128 MiB\)`).MatchString(c.log()) {
			t.Error("the log does not say why")
		}
		c.awaitMetric(`evermore_child_exits_total{code="137",reason="oom",worker="0"}`, 1)
		c.awaitMetric(`evermore_child_restarts_total{reason="oom",worker="0"}`, 1)
		c.awaitMetric(`evermore_oom_kills_total`, 1)
		if why := c.exec("/evermore", "why"); !regexp.MustCompile(`  oom        SIGKILL from the kernel  after \S+  peak \d+ MiB of 128 MiB`).MatchString(why) {
			t.Errorf("why says %s", why)
		}
		c.checkScores()
		c.stop(143)
	})

	t.Run("out of memory below the app", func(t *testing.T) {
		c := dies(t, []string{"--memory", "128m", "--memory-swap", "128m"}, "child")
		c.awaitLog("its child died of SIGKILL")
		c.exec("/evermore", "health", "--live") // a probe has it look
		c.awaitMetric(`evermore_oom_kills_total`, 1)
		c.awaitLog("a process of this container was killed for want of memory")
		c.awaitMetric(`evermore_child_exits_total{code="137",reason="oom",worker="0"}`, 0)
		c.awaitUp(1)
		c.stop(143)
	})

	t.Run("out of memory, unprivileged", func(t *testing.T) {
		c := dies(t, []string{"--memory", "128m", "--memory-swap", "128m", "--user", "65532", "--cap-drop", "ALL", "--read-only"}, "buffers")
		c.awaitUp(2)
		c.awaitMetric(`evermore_child_restarts_total{reason="oom",worker="0"}`, 1)
		c.checkScores()
		c.stop(143)
	})

	t.Run("exhausted heap", func(t *testing.T) {
		c := dies(t, []string{"--env", "EVERMORE_NODE_REPORT=1", "--env", "NODE_OPTIONS=--max-old-space-size=32"}, "heap")
		c.awaitUp(2)
		c.awaitMetric(`evermore_child_exits_total{code="134",reason="heap",worker="0"}`, 1)
		if why := c.exec("/evermore", "why"); !regexp.MustCompile(`  heap       SIGABRT .*JavaScript heap out of memory  heap \d+ MiB of \d+ MiB`).MatchString(why) {
			t.Errorf("why says %s", why)
		}
		c.stop(143)
	})

	t.Run("uncaught exception", func(t *testing.T) {
		c := dies(t, []string{"--env", "EVERMORE_NODE_REPORT=1", "--user", "1000", "--read-only"}, "exception")
		c.awaitUp(2)
		c.awaitMetric(`evermore_child_exits_total{code="1",reason="exception",worker="0"}`, 1)
		if why := c.exec("/evermore", "why"); !strings.Contains(why, "  exception  code 1  after ") || !strings.Contains(why, "TypeError: Cannot read properties of null (reading 'x')") {
			t.Errorf("why says %s", why)
		}
		c.stop(143)
	})

	t.Run("throttled", func(t *testing.T) {
		c := dies(t, []string{"--cpus", "0.2"}, "busy")
		c.awaitUp(2)
		var said state.Deaths
		if err := json.Unmarshal([]byte(c.exec("/evermore", "why", "--json")), &said); err != nil || len(said.Deaths) != 1 {
			t.Fatalf("%+v, %v", said, err)
		}
		if d := said.Deaths[0]; *d.Code != 4 || d.Throttling == nil || d.Throttling.Throttled == 0 || d.Throttling.Throttled > d.Throttling.Periods || d.Throttling.MS == 0 {
			t.Errorf("told are %+v", d)
		}
		c.stop(143)
	})

	t.Run("the next container", func(t *testing.T) { survives(t, dies) })
}

// survives has one container after the other share a volume, as those of a pod do.
func survives(t *testing.T, dies func(*testing.T, []string, ...string) *container) {
	// As an emptyDir: anybody may write it.
	volume := filepath.Join(t.TempDir(), "volume")
	if err := os.Mkdir(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	options := []string{
		"--volume", volume + ":/state", "--env", "EVERMORE_ROOT=/state/evermore", "--env", "EVERMORE_MAX_RESTARTS=3/10m",
		"--env", "EVERMORE_SPIN_SLEEP_TIME=1ms", "--user", "1000", "--read-only",
	}
	gaveUp := func(c *container, lives int) {
		t.Helper()
		c.ends(5)
		if log := c.log(); strings.Count(log, " is up") != lives || !strings.Contains(log, "it was restarted 3 times in 10m0s") {
			t.Errorf("%d lives, not %d", strings.Count(log, " is up"), lives)
		}
		c.must("rm", c.name)
	}
	gaveUp(dies(t, options, "crash", "always"), 4)
	gaveUp(dies(t, options, "crash", "always"), 1) // it has its one run, and no budget

	// One that is killed as a whole, as by memory.oom.group.
	roomy := slices.Concat(options, []string{"--env", "EVERMORE_MAX_RESTARTS=100/10m"})
	c := dies(t, roomy, "crash")
	c.awaitUp(2)
	c.awaitMetric(`evermore_child_starts_total{worker="0"}`, 2)
	c.must("kill", "--signal", "KILL", c.name)
	c.ends(137)
	c.must("rm", c.name)
	c = dies(t, roomy, "crash")
	c.awaitUp(2)
	c.awaitLog(`"event":"noted","reason":"lost"`)
	c.awaitMetric(`evermore_child_starts_total{worker="0"}`, 4)
	c.awaitMetric(`evermore_child_exits_total{code="5",reason="exit",worker="0"}`, 2)
	c.awaitMetric(`evermore_child_exits_total{code="unknown",reason="lost",worker="0"}`, 1)
	c.awaitMetric(`evermore_child_restarts_total{reason="exit",worker="0"}`, 2)
	why := c.exec("/evermore", "why")
	if lines := strings.Split(strings.TrimSpace(why), "\n"); len(lines) != 3 || !strings.Contains(lines[0], "  exit       code 5") || !strings.Contains(lines[1], "  lost       ") {
		t.Errorf("why says %s", why)
	}
	c.stop(143)
	c.must("rm", c.name)
}

// checkScores looks whether the kernel would take the app before evermore.
func (c *container) checkScores() {
	c.t.Helper()
	app, evermore := c.awaitUp(1)
	for _, m := range upLine.FindAllStringSubmatch(c.log(), -1) {
		_, _ = fmt.Sscan(m[1], &app)
	}
	score := func(pid int) (n int) {
		if _, err := fmt.Sscan(c.exec("cat", fmt.Sprintf("/proc/%d/oom_score_adj", pid)), &n); err != nil {
			c.t.Error(err)
		}
		return n
	}
	if own, its := score(evermore), score(app); its <= own {
		c.t.Errorf("oom_score_adj is %d, and %d for the app", own, its)
	}
}

// awaitMetric waits until the metric has the value.
func (c *container) awaitMetric(name string, want int) {
	c.t.Helper()
	line := fmt.Sprintf("\n%s %d\n", name, want)
	eventually(c.t, strings.TrimSpace(line), func() bool {
		text, _ := c.podman("exec", c.name, "node", "-e", "fetch('http://127.0.0.1:9797/metrics').then((r) => r.text()).then((text) => process.stdout.write(text))")
		return strings.Contains(text, line)
	})
}
