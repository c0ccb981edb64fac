package e2e

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestContainer runs the Dockerfile's image for apps in real containers.
func TestContainer(t *testing.T) {
	p := inContainers(t)

	t.Run("stop", func(t *testing.T) {
		t.Parallel()
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
		t.Parallel()
		c := p.start(t, nil, "node", "-e", "console.log('app', process.pid, 'of', process.ppid, 'is up'); setInterval(() => {}, 1e6)")
		c.awaitUp(1)
		c.stop(143)
	})

	t.Run("killed app", func(t *testing.T) {
		t.Parallel()
		c := p.start(t, nil)
		c.checkRestart()
		c.stop(7)
	})

	t.Run("finished app", func(t *testing.T) {
		t.Parallel()
		p.start(t, []string{"--env", "EVERMORE_RESTART=never"}, "node", "-e", "process.exit(5)").ends(5)
	})

	t.Run("health", func(t *testing.T) {
		t.Parallel()
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
		t.Parallel()
		c := p.start(t, []string{
			"--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL",
			"--user", "65532", "--security-opt", "no-new-privileges",
		})
		c.checkRestart()
		c.awaitHealth("healthy")
		c.awaitListed()
		c.stop(7)
	})

	t.Run("pids limit", func(t *testing.T) {
		t.Parallel()
		c := p.start(t, []string{"--pids-limit", "64", "--env", "EVERMORE_MAX_RESTARTS=0"}, app("bomb")...)
		c.awaitUp(1)
		if log := c.log(); strings.Count(log, "no pid is left") != 3 {
			t.Errorf("the app did not take all pids three times:\n%s", log)
		}
		c.awaitHealth("healthy")
		c.stop(7)
	})

	for name, options := range map[string][]string{
		"terminal":                    {"-it"},
		"terminal below another init": {"-it", "--init"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if slices.Contains(options, "--init") {
				needs(t, "catatonit")
			}
			cmd, _ := p.command(t, options, app("reads")...)
			term := onTerminal(t, cmd)
			term.expectUp()
			term.types("one\r")
			term.expect("got one")
			term.resize(33, 77)
			term.expect("size 33 77")
			term.types(interrupt)
			term.ends(130)
		})
	}

	t.Run("REPL", func(t *testing.T) {
		t.Parallel()
		cmd, _ := p.command(t, []string{"-it"}, "node")
		term := onTerminal(t, cmd)
		term.expect("> ")
		term.types("6*7+100000\r")
		term.expect(`100042(?:\x1b\[39m)?\r*\n[^>]*> `)
		term.types(".exit\r")
		term.ends(0)
	})

	t.Run("terminal without input", func(t *testing.T) {
		t.Parallel()
		cmd, c := p.command(t, []string{"-t"}, app("reads")...)
		term := onTerminal(t, cmd)
		term.expectUp()
		c.stop(7)
		term.ends(7)
	})

	t.Run("input", func(t *testing.T) {
		t.Parallel()
		cmd, c := p.command(t, []string{"-i"}, app("reads")...)
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
		t.Parallel()
		c := p.start(t, nil, app("reads")...)
		c.awaitUp(1)
		c.awaitLog("input ended")
		c.stop(7)
	})

	t.Run("below another init", func(t *testing.T) {
		t.Parallel()
		needs(t, "catatonit")
		c := p.start(t, []string{"--init"}, app("orphans")...)
		if _, parent := c.awaitUp(1); parent == 1 {
			t.Error("evermore is PID 1")
		}
		c.checkRestart()
		c.checkOrphans(2 * 20) // 20 in each life
		c.stop(7)
	})

	// What docker makes of --init is "/sbin/docker-init -- COMMAND", and podman
	// "/run/podman-init -- COMMAND", with the binary that --init-path or the
	// daemon's default-init names.
	for name, options := range map[string][]string{
		"as the init of podman": {"--init", "--init-path", static()},
		"as the init of docker": {"--volume", static() + ":/sbin/docker-init:ro", "--entrypoint", `["/sbin/docker-init","--"]`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := p.on(nodeImage).start(t, append(options, appVolume()...), app("orphans")...)
			if _, parent := c.awaitUp(1); parent != 1 {
				t.Errorf("evermore is not PID 1 but %d", parent)
			}
			c.checkRestart()
			c.checkOrphans(2 * 20)
			c.stop(7)
		})
	}

	t.Run("signals", func(t *testing.T) {
		t.Parallel()
		c := p.start(t, nil, app("signals")...)
		c.awaitUp(1)
		for _, name := range []string{"HUP", "USR2", "WINCH", "CONT"} {
			c.must("kill", "--signal", name, c.name)
			c.awaitLog("got SIG" + name + "\n")
		}
		c.must("kill", "--signal", "TERM", c.name)
		c.ends(7)
	})

	t.Run("restarts of the container", func(t *testing.T) {
		t.Parallel()
		c := p.start(t, nil)
		c.awaitUp(1)
		c.must("restart", "--time", "60", c.name)
		c.awaitUp(2)
		// What evermore has written is left behind, and now it has the same pid.
		c.must("kill", c.name)
		c.ends(137)
		c.must("start", c.name)
		if _, parent := c.awaitUp(3); parent != 1 {
			t.Errorf("evermore is not PID 1 but %d", parent)
		}
		c.awaitHealth("healthy")
		c.awaitListed()
		c.checkRestart()
		c.stop(7)
	})

	t.Run("memory limit", func(t *testing.T) {
		t.Parallel()
		c := p.start(t, []string{"--memory", "256m"}, app("memory")...)
		c.checkRestart()
		if heap := regexp.MustCompile(`heap of (\d{9})\n`).FindAllString(c.log(), -1); len(heap) != 2 {
			t.Errorf("V8's heap does not go by the container's limit in both lives:\n%s", c.log())
		}
		c.stop(7)
	})

	t.Run("pid namespace of the host", func(t *testing.T) {
		t.Parallel()
		// A stranger, one that says it is of a run of evermore's, and a zombie.
		bystanders := []*exec.Cmd{exec.Command("sleep", "1000"), exec.Command("sleep", "1000"), exec.Command("true")}
		bystanders[1].Env = []string{"EVERMORE_RUN_ID=0123456789abcdef0123456789abcdef"}
		for _, b := range bystanders {
			b.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := b.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = b.Process.Kill()
				_ = b.Wait()
			})
		}
		dead := bystanders[2].Process.Pid
		eventually(t, "the third is a zombie", func() bool { return stateOf(dead) == "Z" })

		c := p.start(t, []string{"--pid", "host"}, app("leaves")...)
		_, evermore := c.awaitUp(1)
		if command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", evermore)); !strings.HasPrefix(string(command), "/evermore\x00") {
			t.Fatalf("process %d is no evermore but %q", evermore, command)
		}
		c.awaitLog("left ")
		left, _ := strconv.Atoi(regexp.MustCompile(`left (\d+)`).FindStringSubmatch(c.log())[1])
		c.checkRestart()
		if !gone(left) {
			t.Errorf("process %d of the first life is left", left)
		}
		c.stop(7)
		for i, want := range []string{"S", "S", "Z"} {
			if got := stateOf(bystanders[i].Process.Pid); got != want {
				t.Errorf("bystander %d is in state %q, not %q", i, got, want)
			}
		}
	})

	// As an initContainer and its app do it over an emptyDir, under the rules of
	// Kubernetes' restricted pods.
	t.Run("installed into a volume", func(t *testing.T) {
		t.Parallel()
		if err := targetImage("evermore", "scratch", evermoreImage, ""); err != nil {
			t.Fatal(err)
		}
		volume := t.TempDir()
		if err := os.Chmod(volume, 0o777); err != nil {
			t.Fatal(err)
		}
		restricted := []string{"--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"}
		p.on(evermoreImage).start(t, append(restricted, "--volume", volume+":/inject"), "install", "/inject/").ends(0)

		options := slices.Concat(restricted, appVolume(), []string{"--user", "1000", "--volume", volume + ":/inject:ro", "--entrypoint", ""})
		c := p.on(nodeImage).start(t, options, "/inject/evermore", "--", "node", "server.js")
		if _, parent := c.awaitUp(1); parent != 1 {
			t.Errorf("evermore is not PID 1 but %d", parent)
		}
		c.checkRestart()
		c.awaitReady("/inject/evermore")
		c.stop(7)
	})

	t.Run("distroless", func(t *testing.T) {
		t.Parallel()
		if err := baseImage("distroless", distrolessImage); err != nil {
			t.Fatal(err)
		}
		for name, entry := range map[string][]string{
			"command": {`["/evermore","--"]`, "node", "server.js"},
			"options": {`["/evermore","--kill-timeout","9s","--"]`, "node", "server.js"},
			"script":  {`["/evermore","--min-uptime","1s","--spin-sleep-time","1s"]`, "server.js"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				options := append(appVolume(), "--volume", static()+":/evermore:ro", "--entrypoint", entry[0])
				c := p.on(distrolessImage).start(t, options, entry[1:]...)
				first, _ := c.awaitUp(1)
				c.exec("/nodejs/bin/node", "-e", fmt.Sprintf("process.kill(%d, 'SIGKILL')", first))
				c.awaitUp(2)
				c.stop(7)
			})
		}
	})

	t.Run("musl", func(t *testing.T) {
		t.Parallel()
		needs(t, "musl-gcc")
		receiver := filepath.Join(t.TempDir(), "receiver")
		if err := ran("musl-gcc", "-O1", "-o", receiver, "testdata/receiver.c"); err != nil {
			t.Fatal(err)
		}
		loader := interpreter(t, receiver)
		if !strings.Contains(loader, "musl") {
			t.Fatalf("the program is loaded by %q", loader)
		}
		if loader := interpreter(t, static()); loader != "" {
			t.Errorf("evermore is loaded by %q: it is not static", loader)
		}
		err := buildImage(muslImage, fmt.Sprintf("FROM scratch\nCOPY %s %s\nCOPY evermore-static /evermore\nCOPY receiver /\nENTRYPOINT [%q, %q]\nCMD [%q]\n",
			filepath.Base(loader), loader, "/evermore", "--", "/receiver"), loader, static(), receiver)
		if err != nil {
			t.Fatal(err)
		}
		c := p.on(muslImage).start(t, []string{"--read-only", "--user", "65532"})
		c.awaitLog("ready\n")
		c.must("kill", "--signal", "USR2", c.name)
		c.awaitLog(fmt.Sprintf("got %d from 1\n", syscall.SIGUSR2))
		c.awaitReady("/evermore")
		c.stop(0)
	})
}

// static is the binary as it is shipped.
func static() string { return filepath.Join(binaries, "evermore-static") }

// appVolume brings the app into an image.
func appVolume() []string {
	source, _ := filepath.Abs("testdata/container/app.js")
	return []string{"--volume", source + ":/app/server.js:ro", "--workdir", "/app"}
}

// interpreter is what a program is loaded by (PT_INTERP, elf(5)); "" for a static
// one.
func interpreter(t *testing.T, program string) string {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, segment := range f.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		path, err := io.ReadAll(segment.Open())
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimRight(string(path), "\x00")
	}
	return ""
}

// app is the command of an app that does something beside; see app.js.
func app(what string) []string { return []string{"node", "server.js", what} }

// podman is how podman runs here, and what.
type podman struct {
	global []string // options before the command
	run    []string // options of the command run
	image  string
}

// on is the same with another image.
func (p podman) on(image string) podman {
	p.image = image
	return p
}

// ways to run podman: as it is set up, and with limits that may be set inside a
// container or a small virtual machine, and a runtime that asks for less.
var ways = []podman{
	{},
	{global: []string{"--runtime", "runc"}, run: []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"}},
}

// The images of this run; runs beside each other have their own.
var (
	// containerImage is made of the last target of the Dockerfile, with this
	// machine's node, the binary that is tested, and testdata/container/app.js.
	// The whole Dockerfile is proved in image/.
	containerImage = fmt.Sprintf("localhost/evermore-e2e-container:%d", os.Getpid())
	// nodeImage knows nothing of evermore.
	nodeImage = fmt.Sprintf("localhost/evermore-e2e-container-node:%d", os.Getpid())
	// distrolessImage neither, and has no shell.
	distrolessImage = fmt.Sprintf("localhost/evermore-e2e-container-distroless:%d", os.Getpid())
	// evermoreImage is made of the Dockerfile's target of that name.
	evermoreImage = fmt.Sprintf("localhost/evermore-e2e-container-evermore:%d", os.Getpid())
	// muslImage has musl and nothing of glibc's.
	muslImage = fmt.Sprintf("localhost/evermore-e2e-container-musl:%d", os.Getpid())
)

// removeImages removes what the tests have built.
func removeImages() {
	if _, err := exec.LookPath("podman"); err == nil {
		_ = exec.Command("podman", "rmi", "--force", "--ignore", containerImage, nodeImage, distrolessImage, evermoreImage, muslImage).Run()
	}
}

// inContainers gives podman with containerImage; where that can't be had, the test
// is skipped.
func inContainers(t *testing.T) podman {
	t.Helper()
	needs(t, "podman", "node")
	p, err := firstContainer()
	if err != nil {
		lacks(t, err.Error())
	}
	return p
}

// firstContainer makes nodeImage and containerImage, once, and finds out how
// podman runs here.
var firstContainer = sync.OnceValues(func() (podman, error) {
	if err := baseImage("node", nodeImage); err != nil {
		return podman{}, err
	}
	if err := targetImage("node", nodeImage, containerImage, "COPY app.js server.js\n", "testdata/container/app.js"); err != nil {
		return podman{}, err
	}
	var reasons []error
	for _, p := range ways {
		args := slices.Concat(p.global, []string{"run", "--rm", "--network", "none"}, p.run, []string{containerImage, "node", "-e", "0"})
		if err := ran("podman", args...); err != nil {
			reasons = append(reasons, err)
			continue
		}
		return p.on(containerImage), nil
	}
	return podman{}, errors.Join(reasons...)
})

// baseImage makes an image of one of build.sh's. Another run may remove that when
// nothing is made of it.
func baseImage(kind, image string) error {
	if err := ran("image/build.sh", kind); err != nil {
		return err
	}
	return buildImage(image, fmt.Sprintf("FROM localhost/evermore-e2e-%s\nLABEL run=%d\n", kind, os.Getpid()))
}

// targetImage makes one of the Dockerfile's targets with the binary that is tested,
// and with more.
func targetImage(target, base, image, more string, files ...string) error {
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		return err
	}
	found := regexp.MustCompile(`(?s)\nFROM \S+ AS ` + target + `\n(.*?)(?:\nFROM |$)`).FindSubmatch(text)
	if found == nil {
		return fmt.Errorf("the Dockerfile has no target %s", target)
	}
	stage := regexp.MustCompile(`COPY --from=\S+ /evermore `).ReplaceAllString(string(found[1]), "COPY evermore-static ")
	return buildImage(image, "FROM "+base+"\n"+stage+"\n"+more, append(files, static())...)
}

// buildImage makes an image by a Dockerfile that copies the files.
func buildImage(image, dockerfile string, files ...string) error {
	dir, err := os.MkdirTemp("", "evermore-e2e-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		return err
	}
	if len(files) > 0 {
		if err := ran("cp", append(files, dir)...); err != nil {
			return err
		}
	}
	return ran("podman", "build", "--quiet", "--format", "docker", "--tag", image, dir)
}

// ran runs a command; the error has what it wrote.
func ran(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
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
	c.must(slices.Concat([]string{"run", "--detach", "--name", c.name, "--network", "none"}, p.run, options, []string{p.image}, app)...)
	return c
}

// command gives the command that runs a container in the foreground.
func (p podman) command(t *testing.T, options []string, app ...string) (*exec.Cmd, *container) {
	t.Helper()
	c := p.named(t)
	return exec.Command("podman", slices.Concat(p.global, []string{"run", "--name", c.name, "--network", "none"}, p.run, options, []string{p.image}, app)...), c
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

// awaitReady waits until evermore's own probe succeeds.
func (c *container) awaitReady(evermore string) {
	c.t.Helper()
	eventually(c.t, "the app is ready", func() bool {
		_, err := c.podman("exec", c.name, evermore, "health")
		return err == nil
	})
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

// awaitListed waits until evermore's list, asked for in the container, has one app,
// running.
func (c *container) awaitListed() {
	c.t.Helper()
	eventually(c.t, "evermore lists one app, running", func() bool {
		list, err := c.podman("exec", c.name, "/evermore", "list", "--json")
		return err == nil && strings.Count(list, `"status"`) == 1 && regexp.MustCompile(`"status": ?"running"`).MatchString(list)
	})
}

// checkRestart kills the app: it comes back, and the container stays.
func (c *container) checkRestart() {
	c.t.Helper()
	before, _ := c.awaitUp(1)
	times := len(upLine.FindAllString(c.log(), -1))
	started := c.inspect("{{.State.StartedAt}}")
	c.exec("node", "-e", fmt.Sprintf("process.kill(%d, 'SIGKILL')", before))
	if after, _ := c.awaitUp(times + 1); after == before {
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
