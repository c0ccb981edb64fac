// Package image proves the Dockerfile: both of its images are built by podman, on
// bases that build.sh makes from this machine's own files, and the one for apps
// is run the way a cluster runs it.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	binaryImage = "localhost/evermore-e2e-dockerfile:evermore"
	nodeImage   = "localhost/evermore-e2e-dockerfile:node"

	version  = "1.2.3"
	revision = "0123456"
)

// Where podman runs inside a container or a small virtual machine, its default
// limits are more than it may set, and crun may miss what it needs of cgroups.
var limits = []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"}

// podman gives what the command writes to stdout.
func podman(args ...string) (string, error) {
	c := exec.Command("podman", append([]string{"--runtime", "runc"}, args...)...)
	out, err := c.Output()
	if failed := new(exec.ExitError); errors.As(err, &failed) {
		err = fmt.Errorf("podman %s: %w\n%s", strings.Join(args, " "), err, failed.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

func mustPodman(t *testing.T, args ...string) string {
	t.Helper()
	out, err := podman(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// goEnv gives a setting of the go command.
func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatalf("cannot ask go for %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// build makes an image of one target of the Dockerfile. The build stage finds
// modules in this machine's cache, which it sees through an overlay.
func build(t *testing.T, target, arch, source, image string) {
	t.Helper()
	args := []string{
		"build", "--quiet", "--format", "docker", "--layers=false", "--network", "none", "--platform", "linux/" + arch,
		"--volume", goEnv(t, "GOMODCACHE") + ":/go/pkg/mod:O",
		"--volume", goEnv(t, "GOCACHE") + ":/root/.cache/go-build:O",
		"--build-arg", "GO_IMAGE=localhost/evermore-e2e-go",
		"--build-arg", "NODE_IMAGE=localhost/evermore-e2e-node",
		"--build-arg", "VERSION=" + version,
		"--build-arg", "REVISION=" + revision,
		// Not every buildah knows it by itself.
		"--build-arg", "BUILDPLATFORM=linux/" + runtime.GOARCH,
		"--target", target, "--tag", image,
	}
	mustPodman(t, append(append(args, limits...), source)...)
	t.Cleanup(func() { podman("rmi", "--force", image) })
}

func prepare(t *testing.T) {
	t.Helper()
	for _, program := range []string{"podman", "runc", "node"} {
		if _, err := exec.LookPath(program); err != nil {
			skip(t, program+" is missing: apt-get install podman runc nodejs")
		}
	}
	if _, err := podman("info"); err != nil {
		skip(t, err.Error())
	}
	if out, err := exec.Command("go", "mod", "download").CombinedOutput(); err != nil {
		t.Fatalf("cannot fill the module cache: %v\n%s", err, out)
	}
	for _, base := range []string{"go", "node"} {
		if out, err := exec.Command("./build.sh", base).CombinedOutput(); err != nil {
			t.Fatalf("cannot make the base image %s: %v\n%s", base, err, out)
		}
	}
}

func TestDockerfile(t *testing.T) {
	prepare(t)
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) { testBinaryImage(t, arch) })
	}
	t.Run("node", testNodeImage)
}

// The image for COPY --from holds the binary and nothing else. It is the binary
// that `make build` makes of a copy of the source in another folder, which has
// another date on each file; and the layer that it is in is the same, too.
func testBinaryImage(t *testing.T, arch string) {
	copied := copySource(t)
	make := exec.Command("make", "--no-print-directory", "-C", copied, "build", "VERSION="+version, "REVISION="+revision)
	make.Env = append(os.Environ(), "GOARCH="+arch)
	if out, err := make.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	made, err := os.ReadFile(filepath.Join(copied, "bin", "evermore"))
	if err != nil {
		t.Fatal(err)
	}
	// What the two builds share, the cache of compiled packages, must name none.
	for _, folder := range []string{copied, goEnv(t, "GOMODCACHE"), goEnv(t, "GOROOT") + "/src/"} {
		if bytes.Contains(made, []byte(folder)) {
			t.Errorf("the binary names a folder of the machine that built it: %s", folder)
		}
	}

	build(t, "evermore", arch, "../..", binaryImage)
	files := regularFiles(t, binaryImage)
	if len(files) != 1 || files["evermore"] == nil {
		t.Errorf("the image holds %q, want evermore alone", slices.Sorted(maps.Keys(files)))
	}
	if !bytes.Equal(files["evermore"], made) {
		t.Errorf("the binary of the image is %x, that of another folder %x", sha256.Sum256(files["evermore"]), sha256.Sum256(made))
	}
	checkSize(t, arch, made)

	got := mustPodman(t, "image", "inspect", "--format", `{{.Os}}/{{.Architecture}} as {{.User}} runs {{.Config.Entrypoint}}, {{with .Labels}}{{index . "org.opencontainers.image.title"}} {{index . "org.opencontainers.image.version"}} {{index . "org.opencontainers.image.revision"}}{{end}}`, binaryImage)
	if want := "linux/" + arch + " as 65532:65532 runs [/evermore], evermore " + version + " " + revision; got != want {
		t.Errorf("the image says it is\n%s, want\n%s", got, want)
	}
	if arch != runtime.GOARCH {
		return
	}
	told := mustPodman(t, append([]string{"run", "--rm", "--network", "none", "--read-only", "--cap-drop", "all"}, append(limits, binaryImage, "--version")...)...)
	if want := "evermore " + version + " (revision " + revision + ")"; told != want {
		t.Errorf("--version says %q, want %q", told, want)
	}
	again := binaryImage + "-again"
	build(t, "evermore", arch, copied, again)
	const layers = "{{.RootFS.Layers}}"
	one := mustPodman(t, "image", "inspect", "--format", layers, binaryImage)
	if other := mustPodman(t, "image", "inspect", "--format", layers, again); one != other {
		t.Errorf("two builds give the layers %s and %s", one, other)
	}
}

// checkSize holds the README to the size of the layer and to what is left of it on
// the way from a registry, in MB of a million bytes, to a twentieth.
func checkSize(t *testing.T, arch string, binary []byte) {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	told := regexp.MustCompile(`(\S+) MB on ` + arch + ` \((\S+) MB pulled\)`).FindStringSubmatch(string(readme))
	if told == nil {
		t.Fatalf("the README does not tell the size of the layer for %s", arch)
	}
	var pulled bytes.Buffer
	w := gzip.NewWriter(&pulled)
	_, _ = w.Write(binary)
	_ = w.Close()
	is := func(bytes int, told string) bool {
		megabytes, err := strconv.ParseFloat(told, 64)
		return err == nil && math.Abs(float64(bytes)/1e6-megabytes) < megabytes/20
	}
	if !is(len(binary), told[1]) || !is(pulled.Len(), told[2]) {
		t.Errorf("the layer has %d bytes, compressed %d; the README says %q", len(binary), pulled.Len(), told[0])
	}
}

// copySource copies what git would have of the source, with new dates, and gives
// the folder.
func copySource(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a folder of another name", "evermore")
	out, err := exec.Command("sh", "-c", `mkdir -p "$1" && tar -C ../.. --exclude ./.git --exclude ./bin --exclude ./bench/.peers -c . | tar -C "$1" -x -m`, "sh", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("cannot copy the source: %v\n%s", err, out)
	}
	return dir
}

// regularFiles gives what an image holds. Folders are podman's: it makes those
// that it mounts things on.
func regularFiles(t *testing.T, image string) map[string][]byte {
	t.Helper()
	id := mustPodman(t, "create", image)
	defer podman("rm", "--force", id)
	archive := filepath.Join(t.TempDir(), "image.tar")
	mustPodman(t, "export", "--output", archive, id)
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if files[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// An app on the image survives its own death, under the tightest rules that a
// cluster sets: a user of its own, nothing to write to, no capability.
func testNodeImage(t *testing.T) {
	build(t, "node", runtime.GOARCH, "../..", nodeImage)
	app, err := filepath.Abs("../../examples/server")
	if err != nil {
		t.Fatal(err)
	}
	run := []string{
		"run", "--detach", "--network", "none", "--read-only", "--read-only-tmpfs=false", "--cap-drop", "all",
		"--security-opt", "no-new-privileges", "--volume", app + ":/app:ro",
	}
	id := mustPodman(t, append(append(run, limits...), nodeImage)...)
	defer podman("rm", "--force", "--time", "0", id)

	eventually(t, func() error {
		_, err := podman("healthcheck", "run", id)
		return err
	})
	who := inside(t, id, `const fs = require('node:fs');
		console.log(fs.readlinkSync('/proc/1/exe'), process.getuid(), process.getgid())`)
	if who != "/evermore 1000 1000" {
		t.Errorf("PID 1 and the user are %q, want /evermore as 1000:1000", who)
	}

	first := served(t, id)
	inside(t, id, fmt.Sprintf("process.kill(%d, 'SIGKILL')", first))
	eventually(t, func() error {
		now, err := pidServing(id)
		if err == nil && now == first {
			err = fmt.Errorf("pid %d still serves after its SIGKILL", first)
		}
		return err
	})
	metrics := inside(t, id, fetch("http://127.0.0.1:9797/metrics"))
	if n := sum(t, metrics, "evermore_child_restarts_total"); n != 1 {
		t.Errorf("evermore counted %v restarts after one kill", n)
	}

	mustPodman(t, "stop", "--time", "60", id)
	if code := mustPodman(t, "inspect", "--format", "{{.State.ExitCode}}", id); code != "0" {
		t.Errorf("the container exited with %s, the app stops gracefully with 0", code)
	}
	out, err := exec.Command("podman", "logs", id).CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "SIGTERM: pid ") {
		t.Errorf("the app was not told to stop; the log:\n%s", out)
	}
}

// inside gives what a script of node's writes to stdout in the container.
func inside(t *testing.T, id, script string) string {
	t.Helper()
	return mustPodman(t, "exec", id, "node", "-e", script)
}

// fetch is a script that writes what a URL answers.
func fetch(url string) string {
	return fmt.Sprintf("fetch(%q).then((r) => r.text()).then((text) => process.stdout.write(text))", url)
}

// pidServing is the pid that the example answers with.
func pidServing(id string) (int, error) {
	answer, err := podman("exec", id, "node", "-e", fetch("http://127.0.0.1:3000/"))
	if err != nil {
		return 0, err
	}
	var pid int
	if _, err := fmt.Sscanf(answer, "pid %d,", &pid); err != nil {
		return 0, fmt.Errorf("cannot read %q: %w", answer, err)
	}
	return pid, nil
}

func served(t *testing.T, id string) (pid int) {
	t.Helper()
	eventually(t, func() (err error) {
		pid, err = pidServing(id)
		return err
	})
	return pid
}

// sum adds up all samples of one metric.
func sum(t *testing.T, metrics, name string) float64 {
	t.Helper()
	samples := regexp.MustCompile(`(?m)^`+name+`(?:\{[^}]*\})? (\S+)$`).FindAllStringSubmatch(metrics, -1)
	if len(samples) == 0 {
		t.Fatalf("there is no metric %s in:\n%s", name, metrics)
	}
	var total float64
	for _, sample := range samples {
		value, err := strconv.ParseFloat(sample[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		total += value
	}
	return total
}

// eventually repeats what may fail at first, for as long as a slow machine may
// need.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// skip leaves a test out where it cannot run; in CI nothing may be missing.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
