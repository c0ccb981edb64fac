// Package nodetest brings the lines of Node.js that tests run.
package nodetest

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
)

// Lines are the release lines of node that evermore works with.
var Lines = []string{"18", "20", "22", "24"}

//go:embed package.json
var manifest []byte

// Node gives the path of node of a line. Without it the test is skipped, or fails
// in CI.
func Node(t testing.TB, line string) string {
	t.Helper()
	return filepath.Join(Modules(t), "node-"+line, "bin", "node")
}

// Modules gives a folder node_modules with what package.json names.
func Modules(t testing.TB) string {
	t.Helper()
	dir, err := install()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("npm cannot bring node: %v", err)
		}
		t.Skipf("npm cannot bring node: %v", err)
	}
	return filepath.Join(dir, "node_modules")
}

// install fetches them once for each package.json, into the user's cache.
var install = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	text := manifest
	if runtime.GOARCH == "arm64" {
		text = bytes.ReplaceAll(text, []byte("linux-x64"), []byte("linux-arm64"))
	}
	sum := fnv.New32a()
	sum.Write(text)
	dir := filepath.Join(cache, "evermore", "nodes-"+strconv.FormatUint(uint64(sum.Sum32()), 16))
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
	if err := os.WriteFile(filepath.Join(fresh, "package.json"), text, 0o644); err != nil {
		return "", err
	}
	npm := exec.Command("npm", "install", "--prefix", fresh, "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error")
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	for _, line := range Lines {
		if err := os.Chmod(filepath.Join(fresh, "node_modules", "node-"+line, "bin", "node"), 0o755); err != nil {
			return "", err
		}
	}
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
})
