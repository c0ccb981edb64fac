package node

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

//go:embed preload.js
var preloadSource string

// preload is the code without its comments: it may be in the environment of each
// process of the app.
var preload = sync.OnceValue(func() string {
	var code strings.Builder
	for line := range strings.Lines(preloadSource) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			code.WriteString(line + "\n")
		}
	}
	return code.String()
})

// bootstrap is what node runs first, and what runs the preload. Whatever is wrong, the
// app starts as it would alone.
func bootstrap(code string) string {
	return `try{const config=JSON.parse(process.env.` + environment + `);` +
		`require('node:vm').compileFunction(` + code + `,['require','config'])(require,config)}catch{}`
}

// importOption has node run the preload without any file, and with no right to read
// one. The URL is short, since node takes some milliseconds for a long one. Node knows
// --import in NODE_OPTIONS from 18.19 on.
var importOption = sync.OnceValue(func() string {
	const require = `import{createRequire}from'node:module';const require=createRequire('/');`
	return "--import=data:text/javascript;base64," + base64.StdEncoding.EncodeToString([]byte(require+bootstrap("config.code")))
})

// preloadFile is the same as a file, and its name.
var preloadFile = sync.OnceValues(func() (name string, text []byte) {
	code, err := json.Marshal(preload())
	if err != nil {
		panic("internal error: " + err.Error())
	}
	text = []byte(bootstrap(string(code)) + "\n")
	sum := sha256.Sum256(text)
	return fmt.Sprintf("evermore-preload-%x.cjs", sum[:8]), text
})

// preloadOption is the option that has node run the preload, and whether that is in
// the environment. A file that is required leaves the app what it would be alone;
// --import has node take the ESM loader for a CommonJS app, too, where require hooks
// (ts-node/register) are not asked, and costs milliseconds. Under the permission model
// no file can be required that was not named.
func (l *Link) preloadOption(argv, env []string) (option string, inEnvironment bool) {
	if !underPermissions(argv, env) {
		for _, dir := range l.options.PreloadDirs {
			if path, err := placePreload(dir); err == nil {
				return "--require=" + quoteOption(path), false
			}
		}
	}
	return importOption(), true
}

// underPermissions tells whether a command runs node with its permission model,
// https://nodejs.org/api/permissions.html.
func underPermissions(argv, env []string) bool {
	isOption := func(text string) bool { return strings.Contains(text, "-permission") }
	return slices.ContainsFunc(argv, isOption) ||
		slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, optionsVariable) && isOption(v) })
}

// quoteOption writes an option's value for NODE_OPTIONS.
func quoteOption(value string) string {
	if !strings.ContainsAny(value, ` "\`) {
		return value
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
}

// placePreload gives the path of the preload's file in a folder, which it writes unless
// it is there. All may read it, and nobody but root and this user can change it. It
// stays: as long as a process of the app lives it may start node.
func placePreload(dir string) (path string, err error) {
	if err := safe(dir); err != nil {
		return "", err
	}
	name, text := preloadFile()
	path = filepath.Join(dir, name)
	if isPreload(path, text) {
		return path, nil
	}
	f, err := os.CreateTemp(dir, ".evermore-preload-")
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return path, err
}

// safe tells why others can change what this user has in a folder; nil: they can't.
func safe(dir string) error {
	var st unix.Stat_t
	switch err := unix.Stat(dir, &st); {
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != 0 && st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0:
		return fmt.Errorf("others can change what is in %s", dir)
	}
	return nil
}

// isPreload tells whether a file is what placePreload would write.
func isPreload(path string, want []byte) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode != unix.S_IFREG|0o644 || st.Uid != uint32(os.Geteuid()) || st.Size != int64(len(want)) {
		return false
	}
	text, err := io.ReadAll(f)
	return err == nil && bytes.Equal(text, want)
}

// environment is the variable that the preload goes by.
const environment = "EVERMORE_NODE"

// told is what it holds.
type told struct {
	PID      int       `json:"pid"`
	Name     string    `json:"name"` // of the link's abstract socket, without the leading zero
	File     string    `json:"file"` // of its file
	Held     Held      `json:"held"`
	AtStart  bool      `json:"atStart,omitempty"`
	Messages bool      `json:"messages,omitempty"`
	Code     string    `json:"code,omitempty"`  // of the preload, where it is in no file
	Stats    []float64 `json:"stats,omitempty"` // the buckets of collections; nil: no stats
}

// Environ gives an environment in which the node of a command runs the preload: it
// takes what is held and speaks to this link.
func (l *Link) Environ(argv, env []string, held Held) []string {
	t := told{
		PID: os.Getpid(), Name: l.name, File: l.file, Held: held,
		AtStart: l.options.AtStart, Messages: l.options.Messages,
	}
	option, inEnvironment := l.preloadOption(argv, env)
	if inEnvironment {
		t.Code = preload()
	}
	if held == nil {
		t.Held = Held{}
	}
	if l.options.Stats {
		t.Stats = collectionBuckets
	}
	text, err := json.Marshal(t)
	if err != nil {
		panic("internal error: " + err.Error())
	}
	env = WithOptions(env, option)
	kept := make([]string, 0, len(env)+1)
	for _, v := range env {
		if !strings.HasPrefix(v, environment+"=") {
			kept = append(kept, v)
		}
	}
	return append(kept, environment+"="+string(text))
}

// HeldBy gives what was held for a process of this environment, which Environ made.
func HeldBy(env []string) []Address {
	var list []Address
	for a := range heldBy(env) {
		list = append(list, a)
	}
	return list
}

func heldBy(env []string) iter.Seq2[Address, held] {
	return func(yield func(Address, held) bool) {
		for _, v := range env {
			text, ok := strings.CutPrefix(v, environment+"=")
			var t told
			if !ok || json.Unmarshal([]byte(text), &t) != nil {
				continue
			}
			for _, h := range t.Held {
				if a, err := ParseAddress(h.Name, "/"); err == nil && !yield(a, h) {
					return
				}
			}
		}
	}
}
