// Package forever_test compares evermore with the forever of npm: both run the
// same shell sessions, evermore through a link named forever.
//
//	testdata/sessions/     what is run, see session
//	testdata/apps/         the apps in the working directory of every session
//	testdata/3.0.4, 4.0.3  what the two forevers said, made by go test -record
//	testdata/differences   what evermore says instead, and why, see differences
//
// What is said is compared without what no two runs share, see normaliser.
package forever_test

import (
	"bytes"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

var versions = []string{"3.0.4", "4.0.3"}

var record = flag.Bool("record", false, "write what the forevers of npm say to testdata")

func TestMain(m *testing.M) {
	if dir := os.Getenv(sessionEnv); dir != "" {
		if err := runHere(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	// Sessions mostly wait for processes.
	_ = flag.Set("test.parallel", "4")
	os.Exit(m.Run())
}

// TestEvermore runs every session with evermore: it says what each forever has
// said, but for the listed differences.
func TestEvermore(t *testing.T) {
	needNamespaces(t)
	evermore := filepath.Join(t.TempDir(), "evermore")
	build := exec.Command("go", "build", "-o", evermore, "evermore")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build evermore: %v\n%s", err, out)
	}
	list := readDifferences(t)
	for _, s := range readSessions(t) {
		t.Run(s.name, func(t *testing.T) {
			want := map[string]transcript{}
			for _, version := range versions {
				var err error
				if want[version], err = list.expected(version, s.name); err != nil {
					t.Fatal(err)
				}
			}
			t.Parallel()
			got := s.run(t, evermore)
			for _, version := range versions {
				compare(t, "forever "+version+" with the listed differences", want[version], "evermore", got)
			}
		})
	}
}

// TestDifferences holds the list of differences to the recordings: a difference
// from what no forever says is none.
func TestDifferences(t *testing.T) {
	list := readDifferences(t)
	for _, s := range readSessions(t) {
		for _, version := range versions {
			if _, err := list.expected(version, s.name); err != nil {
				t.Error(err)
			}
		}
	}
	for _, d := range list.unused() {
		t.Error(d)
	}
}

// TestRecordings runs every session with the forevers of npm: they say what is
// recorded of them. Each call of theirs takes half a second of a processor:
// go test -short leaves this out.
func TestRecordings(t *testing.T) {
	if testing.Short() {
		t.Skip("the forevers of npm are slow")
	}
	needNamespaces(t)
	dir := installed(t)
	for _, version := range versions {
		for _, s := range readSessions(t) {
			t.Run(version+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				got := s.run(t, filepath.Join(dir, executable(version)))
				if *record {
					if err := got.save(version, s.name); err != nil {
						t.Fatal(err)
					}
					return
				}
				want, err := recorded(version, s.name)
				if err != nil {
					t.Fatal(err)
				}
				compare(t, "recorded", want, "forever "+version, got)
			})
		}
	}
}

// compare reports each step in which two transcripts of a session differ.
func compare(t *testing.T, wanted string, want transcript, gotten string, got transcript) {
	t.Helper()
	commands := func(tr transcript) (all []string) {
		for _, s := range tr {
			all = append(all, s.command)
		}
		return all
	}
	if !slices.Equal(commands(want), commands(got)) {
		t.Fatalf("%s: other steps than in the session: go test -record makes it anew", wanted)
	}
	for i := range want {
		if !slices.Equal(want[i].lines, got[i].lines) {
			t.Errorf("$ %s\n%s:\n%s\n%s:\n%s", want[i].command,
				wanted, indent(want[i].lines), gotten, indent(got[i].lines))
		}
	}
}

func indent(lines []string) string { return "\t" + strings.Join(lines, "\n\t") }

// lacking skips a test for what is missing here, but not in CI.
func lacking(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// needNamespaces skips a test where sessions cannot have pids of their own, or
// have no node to run.
func needNamespaces(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		lacking(t, "node is missing")
	}
	if out, err := exec.Command("unshare", append(unshareFlags(), "true")...).CombinedOutput(); err != nil {
		lacking(t, "no pid namespace can be made: %v: %s", err, out)
	}
}

//go:embed package.json
var peers []byte

// executable gives the path of a version of forever in the folder it is installed in.
func executable(version string) string {
	return filepath.Join("node_modules", "forever-"+version, "bin", "forever")
}

// installed gives the folder with the forevers. They are fetched once for each
// package.json, into the user's cache.
func installed(t *testing.T) string {
	t.Helper()
	dir, err := install()
	if err != nil {
		lacking(t, "npm cannot bring forever: %v", err)
	}
	return dir
}

var install = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := fnv.New32a()
	sum.Write(peers)
	dir := filepath.Join(cache, "evermore", "forever-"+strconv.FormatUint(uint64(sum.Sum32()), 16))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	// What is there under its own name is complete, also for a test beside this one.
	fresh, err := os.MkdirTemp(filepath.Dir(dir), "fresh-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	if err := os.WriteFile(filepath.Join(fresh, "package.json"), peers, 0o644); err != nil {
		return "", err
	}
	npm := exec.Command("npm", "install", "--prefix", fresh, "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error")
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	// npm makes a link, and what it leads to executable, for one of them alone.
	for _, version := range versions {
		if err := os.Chmod(filepath.Join(fresh, executable(version)), 0o755); err != nil {
			return "", err
		}
	}
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
})
