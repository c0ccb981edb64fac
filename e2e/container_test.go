package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// TestContainer runs the Dockerfile's image for apps in real containers.
func TestContainer(t *testing.T) {
	needs(t, "podman", "node")
	p := buildContainer(t)

	t.Run("stop", func(t *testing.T) {
		c := p.start(t, nil)
		if _, parent := c.awaitUp(1); parent != 1 {
			t.Errorf("evermore is not PID 1 but %d", parent)
		}
		c.stop(7)
		if log := c.log(); !strings.Contains(log, "app received SIGTERM\n") {
			t.Errorf("the app was not told:\n%s", log)
		}
	})

	t.Run("default action", func(t *testing.T) {
		c := p.start(t, nil, "node", "-e", "console.log('app', process.pid, 'of', process.ppid, 'is up'); setInterval(() => {}, 1e6)")
		c.awaitUp(1)
		c.stop(143)
	})

	t.Run("killed app", func(t *testing.T) {
		c := p.start(t, nil)
		c.checkRestart()
		c.stop(7)
	})

	t.Run("finished app", func(t *testing.T) {
		p.start(t, []string{"--env", "EVERMORE_RESTART=never"}, "node", "-e", "process.exit(5)").ends(5)
	})

	t.Run("health", func(t *testing.T) {
		c := p.start(t, []string{"--env", "EVERMORE_READY=http://127.0.0.1:3000/"}, app("served")...)
		c.awaitUp(1)
		c.awaitHealth("healthy")
		c.exec("node", "-e", "fs.writeFileSync('/tmp/sick', '')")
		c.awaitHealth("unhealthy")
		c.exec("node", "-e", "fs.unlinkSync('/tmp/sick')")
		c.awaitHealth("healthy")
		if strings.Count(c.log(), " is up") != 1 {
			t.Errorf("the app was restarted because it was not ready:\n%s", c.log())
		}
		c.stop(7)
	})

	t.Run("restricted", func(t *testing.T) {
		c := p.start(t, []string{
			"--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL",
			"--user", "65532", "--security-opt", "no-new-privileges",
		})
		c.checkRestart()
		c.awaitHealth("healthy")
		c.stop(7)
	})

	t.Run("pids limit", func(t *testing.T) {
		c := p.start(t, []string{"--pids-limit", "64", "--env", "EVERMORE_MAX_RESTARTS=0"}, app("bomb")...)
		c.awaitUp(1)
		if log := c.log(); strings.Count(log, "no pid is left") != 3 {
			t.Errorf("the app did not take all pids three times:\n%s", log)
		}
		c.awaitHealth("healthy")
		c.stop(7)
	})

	t.Run("terminal", func(t *testing.T) {
		cmd, _ := p.command(t, "-it", app("reads")...)
		term := onTerminal(t, cmd)
		term.expectUp()
		term.types("one\r")
		term.expect("got one")
		term.types(interrupt)
		term.ends(130)
	})

	t.Run("REPL", func(t *testing.T) {
		cmd, _ := p.command(t, "-it", "node")
		term := onTerminal(t, cmd)
		term.expect("> ")
		term.types("6*7+100000\r")
		term.expect(`100042(?:\x1b\[39m)?\r*\n[^>]*> `)
		term.types(".exit\r")
		term.ends(0)
	})

	t.Run("terminal without input", func(t *testing.T) {
		cmd, c := p.command(t, "-t", app("reads")...)
		term := onTerminal(t, cmd)
		term.expectUp()
		c.stop(7)
		term.ends(7)
	})

	t.Run("input", func(t *testing.T) {
		cmd, c := p.command(t, "-i", app("reads")...)
		cmd.Stdin = strings.NewReader("one\n")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c.awaitUp(1)
		c.awaitLog("got one")
		c.awaitLog("input ended") // which is no reason to end
		c.stop(7)
		_ = cmd.Wait()
	})

	t.Run("no input", func(t *testing.T) {
		c := p.start(t, nil, app("reads")...)
		c.awaitUp(1)
		c.awaitLog("input ended")
		c.stop(7)
	})

	t.Run("below another init", func(t *testing.T) {
		c := p.start(t, []string{"--init"}, app("orphans")...)
		if _, parent := c.awaitUp(1); parent == 1 {
			t.Error("evermore is PID 1")
		}
		c.checkRestart()
		c.checkOrphans(2 * 20) // 20 in each life
		c.stop(7)
	})
}

// app is the command of an app that does something beside; see app.js.
func app(what string) []string { return []string{"node", "server.js", what} }

// podman is how podman runs here.
type podman struct {
	global []string // options before the command
	run    []string // options of the command run
}

// ways to run podman: as it is set up, and with limits that may be set inside a
// container or a small virtual machine, and a runtime that asks for less.
var ways = []podman{
	{},
	{global: []string{"--runtime", "runc"}, run: []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"}},
}

// containerImage is made of the last target of the Dockerfile, with this
// machine's node, the binary that is tested, and testdata/container/app.js. The
// whole Dockerfile is proved in image/. Runs beside each other have their own.
var (
	containerImage = fmt.Sprintf("localhost/evermore-e2e-container:%d", os.Getpid())
	containerBase  = fmt.Sprintf("localhost/evermore-e2e-container-base:%d", os.Getpid())
)

// buildContainer makes the image and finds out how podman runs here.
func buildContainer(t *testing.T) podman {
	t.Helper()
	must := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			lacks(t, fmt.Sprintf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out))
		}
	}
	t.Cleanup(func() { _ = exec.Command("podman", "rmi", "--force", containerImage, containerBase).Run() })
	must("image/build.sh", "node")
	// Another run may make it anew, and remove this one.
	must("podman", "tag", "localhost/evermore-e2e-node", containerBase)

	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, last, found := strings.Cut(string(text), "\nFROM ${NODE_IMAGE} AS node\n")
	if !found {
		t.Fatal("the Dockerfile has no target for apps")
	}
	last = strings.ReplaceAll(last, "COPY --from=evermore /evermore ", "COPY evermore-static ")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+containerBase+"\n"+last+"COPY app.js server.js\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	must("cp", filepath.Join(binaries, "evermore-static"), "testdata/container/app.js", dir)
	must("podman", "build", "--quiet", "--format", "docker", "--tag", containerImage, dir)

	var reasons []string
	for _, p := range ways {
		c := p.named(t)
		out, err := c.podman(slices.Concat([]string{"run", "--name", c.name, "--network", "none"}, p.run, []string{containerImage, "node", "-e", "0"})...)
		if err == nil {
			return p
		}
		reasons = append(reasons, fmt.Sprintf("podman %v: %v %s", p, err, out))
	}
	lacks(t, "podman cannot run a container:\n"+strings.Join(reasons, "\n"))
	return podman{}
}

// container is one that a test runs; it is removed when the test ends.
type container struct {
	t    *testing.T
	by   podman
	name string
}

var containers atomic.Int32

func (p podman) named(t *testing.T) *container {
	c := &container{t: t, by: p, name: fmt.Sprintf("evermore-e2e-%d-%d", os.Getpid(), containers.Add(1))}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of the container:\n%s", c.log())
		}
		_, _ = c.podman("rm", "--force", "--time", "0", c.name)
	})
	return c
}

// start runs a container in the background, with the image's own app or another.
func (p podman) start(t *testing.T, options []string, app ...string) *container {
	t.Helper()
	c := p.named(t)
	c.must(slices.Concat([]string{"run", "--detach", "--name", c.name, "--network", "none"}, p.run, options, []string{containerImage}, app)...)
	return c
}

// command gives the command that runs a container in the foreground.
func (p podman) command(t *testing.T, option string, app ...string) (*exec.Cmd, *container) {
	t.Helper()
	c := p.named(t)
	return exec.Command("podman", slices.Concat(p.global, []string{"run", "--name", c.name, "--network", "none"}, p.run, []string{option, containerImage}, app)...), c
}

// podman runs a command of podman and gives what it writes.
func (c *container) podman(args ...string) (string, error) {
	out, err := exec.Command("podman", slices.Concat(c.by.global, args)...).CombinedOutput()
	return string(out), err
}

func (c *container) must(args ...string) string {
	c.t.Helper()
	out, err := c.podman(args...)
	if err != nil {
		c.t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (c *container) exec(argv ...string) string {
	c.t.Helper()
	return c.must(append([]string{"exec", c.name}, argv...)...)
}

// log is what the app and evermore have written.
func (c *container) log() string {
	out, _ := c.podman("logs", c.name)
	return strings.ReplaceAll(out, "\r\n", "\n")
}

func (c *container) inspect(format string) string {
	c.t.Helper()
	return strings.TrimSpace(c.must("inspect", "--format", format, c.name))
}

func (c *container) awaitLog(text string) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("%q in the log", text), func() bool { return strings.Contains(c.log(), text) })
}

var upLine = regexp.MustCompile(`app (\d+) of (\d+) is up`)

// awaitUp waits until the app has come up so many times, and gives its pid and
// that of evermore.
func (c *container) awaitUp(times int) (app, evermore int) {
	c.t.Helper()
	var ups [][]string
	eventually(c.t, fmt.Sprintf("the app is up for the %d. time", times), func() bool {
		ups = upLine.FindAllStringSubmatch(c.log(), -1)
		return len(ups) >= times
	})
	last := ups[len(ups)-1]
	app, _ = strconv.Atoi(last[1])
	evermore, _ = strconv.Atoi(last[2])
	return app, evermore
}

// awaitHealth waits until the HEALTHCHECK says so.
func (c *container) awaitHealth(want string) {
	c.t.Helper()
	eventually(c.t, "the container is "+want, func() bool {
		out, err := c.podman("healthcheck", "run", c.name)
		return (err == nil) == (want == "healthy") && !strings.Contains(out, "no defined healthcheck")
	})
}

// checkRestart kills the app: it comes back, and the container stays.
func (c *container) checkRestart() {
	c.t.Helper()
	before, _ := c.awaitUp(1)
	started := c.inspect("{{.State.StartedAt}}")
	c.exec("node", "-e", fmt.Sprintf("process.kill(%d, 'SIGKILL')", before))
	if after, _ := c.awaitUp(2); after == before {
		c.t.Errorf("the app is process %d as before", after)
	}
	if state := c.inspect("{{.State.Status}} {{.State.StartedAt}}"); state != "running "+started {
		c.t.Errorf("the container is %s; it was started %s", state, started)
	}
}

// checkOrphans waits until evermore has reaped so many, and looks for zombies.
func (c *container) checkOrphans(many int) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("%d orphans are reaped", many), func() bool {
		text := c.exec("node", "-e", "fetch('http://127.0.0.1:9797/metrics').then((r) => r.text()).then((text) => process.stdout.write(text))")
		return strings.Contains(text, fmt.Sprintf("\nevermore_reaped_orphans_total %d\n", many))
	})
	eventually(c.t, "there is no zombie", func() bool {
		// Processes come and go while they are looked at.
		return !strings.Contains(c.exec("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null || true"), ") Z ")
	})
}

// stop stops the container, and the exit code is the app's.
func (c *container) stop(code int) {
	c.t.Helper()
	c.must("stop", "--time", "60", c.name)
	c.ends(code)
}

// ends waits for the end of the container.
func (c *container) ends(code int) {
	c.t.Helper()
	if got := strings.TrimSpace(c.must("wait", c.name)); got != strconv.Itoa(code) {
		c.t.Errorf("exit code %s, not %d", got, code)
	}
}
