package e2e

import (
	"debug/elf"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestARM64 runs evermore for arm64 under qemu-user as PID 1 of containers, where
// its app is this machine's node. qemu-user translates system calls one by one, so
// this proves the handler in assembly and what else differs in code.
//
// qemu 7.2 itself knows neither CLONE_PIDFD nor PR_SET_CHILD_SUBREAPER: apps are
// signalled by pid, and evermore must be PID 1.
func TestARM64(t *testing.T) {
	t.Parallel()
	needs(t, "qemu-aarch64-static")
	p := inContainers(t)
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "evermore-arm64")
	build := exec.Command("go", "build", "-trimpath", "-tags=nethttpomithttp2", "-ldflags=-s -w", "-o", binary, "evermore")
	build.Env = append(build.Environ(), "CGO_ENABLED=0", "GOARCH=arm64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	installed := filepath.Join(dir, "installed")
	for _, args := range [][]string{{"--version"}, {"install", installed}} {
		if out, err := exec.Command(qemu, append([]string{binary}, args...)...).CombinedOutput(); err != nil {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
	switch f, err := elf.Open(installed); {
	case err != nil:
		t.Fatal(err)
	case f.Machine != elf.EM_AARCH64:
		t.Errorf("what was installed is for %v", f.Machine)
	}
	start := func(t *testing.T, app ...string) *container {
		return p.on(nodeImage).start(t, append(appVolume(), "--volume", qemu+":/qemu:ro", "--volume", installed+":/evermore:ro",
			"--volume", filepath.Join(binaries, "receiver")+":/receiver:ro", "--entrypoint", `["/qemu","/evermore","--"]`), app...)
	}

	t.Run("life", func(t *testing.T) {
		t.Parallel()
		c := start(t, app("orphans")...)
		if _, parent := c.awaitUp(1); parent != 1 {
			t.Errorf("evermore is not PID 1 but %d", parent)
		}
		c.checkRestart()
		c.checkOrphans(2 * 20)
		c.exec("/qemu", "/evermore", "health")
		c.stop(7)
	})

	t.Run("signals", func(t *testing.T) {
		t.Parallel()
		c := start(t, "/receiver")
		c.awaitLog("ready\n")
		for _, s := range []int{1, 2 + 10, 28, 40, 40, 50} {
			c.must("kill", "--signal", strconv.Itoa(s), c.name)
			c.awaitLog(fmt.Sprintf("got %d from 1\n", s))
		}
		c.stop(0)
		if log := c.log(); strings.Count(log, "got 40 ") != 2 || !strings.Contains(log, "got 15 from 1\n") {
			t.Errorf("not every signal arrived:\n%s", log)
		}
	})

	t.Run("leftovers", func(t *testing.T) {
		t.Parallel()
		c := start(t, app("leaves")...)
		c.awaitUp(1)
		c.awaitLog("left ")
		left := regexp.MustCompile(`left (\d+)`).FindStringSubmatch(c.log())[1]
		c.checkRestart()
		if out := c.exec("node", "-p", "fs.existsSync('/proc/"+left+"/exe')"); strings.TrimSpace(out) != "false" {
			t.Errorf("process %s of the first life is left", left)
		}
		c.stop(7)
	})
}
