package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unicode"

	"golang.org/x/sys/unix"
)

const (
	// maxReport bounds a report that is read: they have some 20 kB, and 600 bytes for
	// each connection.
	maxReport = 8 << 20
	// maxPart bounds a part of it that is kept: the rest goes by, since evermore must
	// stay far smaller than the app (see Kernel.Sacrifice), whatever that writes.
	maxPart = 256 << 10
	// maxDepth is more than the parts that go by are nested.
	maxDepth = 100
	// maxTaken bounds how many are looked at at once, keptReports how many are read
	// of these, and kept.
	maxTaken    = 100
	keptReports = 5
	// maxMessage bounds a message, in characters.
	maxMessage = 200
)

// Report is what a report says of the end of its process.
type Report struct {
	// Event is what happened and Trigger what had the report written, in Node's own
	// words: "Exception", "OOMError" (before Node 18 "FatalError"). As Message they are
	// safe to show.
	Event, Trigger string
	// Message is the first line of the exception's, such as "TypeError: x is not a
	// function"; empty: it was none.
	Message string
	// HeapUsed and HeapLimit are of the JavaScript heap, in bytes.
	HeapUsed, HeapLimit int64
}

// Exception tells whether it was an uncaught exception.
func (r *Report) Exception() bool { return r.Trigger == "Exception" }

// HeapExhausted tells whether the JavaScript heap could not grow any more.
func (r *Report) HeapExhausted() bool {
	return r.Trigger == "OOMError" || r.Trigger == "FatalError" &&
		(strings.Contains(r.Event, "heap out of memory") || strings.Contains(r.Event, "heap limit"))
}

// Reports are the reports of one app.
type Reports struct {
	in   *os.Root // where node writes them
	name string   // of that folder
	kept string
	temp bool       // the folder is for this process alone
	mu   sync.Mutex // one Take at a time
}

// OpenReports makes the folders: kept, in which the last reports of the app are
// kept, and one below it in which node writes them. user, when not nil, is whom
// node runs as: where that is somebody else, who may not enter evermore's folders,
// node writes into a temporary one of its own.
func OpenReports(kept string, user *syscall.Credential) (*Reports, error) {
	r := &Reports{kept: kept, name: filepath.Join(kept, "new")}
	if err := os.MkdirAll(r.name, 0o700); err != nil {
		return nil, err
	}
	if user != nil && int(user.Uid) != os.Geteuid() {
		var err error
		if r.name, err = os.MkdirTemp("", "evermore-reports-"); err != nil {
			return nil, err
		}
		r.temp = true
		if err := os.Chown(r.name, int(user.Uid), int(user.Gid)); err != nil {
			_ = os.Remove(r.name)
			return nil, err
		}
	}
	// What its owner puts in the place of the folder is not followed.
	var err error
	r.in, err = os.OpenRoot(r.name)
	return r, err
}

// Close removes what is temporary.
func (r *Reports) Close() {
	_ = r.in.Close()
	if r.temp {
		_ = os.RemoveAll(r.name) // which follows no link
	}
}

// Env gives an environment in which node writes reports, see
// https://nodejs.org/api/report.html. No option is used that a Node from 12.17 on does not know: an
// unknown one in NODE_OPTIONS ends it with code 9. So the environment and the
// arguments of the process, which --report-exclude-env would leave out from Node
// 22.13 on, are in the reports until Take removes them.
func (r *Reports) Env(env []string) []string {
	directory := "--report-directory=" + r.name
	if strings.ContainsAny(r.name, " \"\\") {
		directory = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(directory) + `"`
	}
	return WithOptions(env, "--report-uncaught-exception", "--report-on-fatalerror", directory)
}

// Take takes the reports that node has written, without the environment, the
// arguments and the network of their process, to those that are kept, and gives
// that of the process; nil: there is none. Of more than are kept it takes that of
// the process and the newest.
func (r *Reports) Take(pid int) (*Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dir, err := r.in.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxTaken)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !isReport(name) })
	slices.SortFunc(names, func(a, b string) int {
		if (pidOf(a) == pid) != (pidOf(b) == pid) {
			if pidOf(a) == pid {
				return -1
			}
			return 1
		}
		return strings.Compare(b, a) // they begin with the time
	})
	var found *Report
	var errs []error
	for i, name := range names {
		if i < keptReports {
			report, text, err := r.read(name)
			if err == nil {
				err = r.keep(name, text)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("node's report %s: %w", name, err))
			}
			if report != nil && pidOf(name) == pid {
				found = report
			}
		}
		_ = r.in.Remove(name)
	}
	r.prune()
	return found, errors.Join(errs...)
}

// isReport tells whether a file is called as node calls its reports:
// report.20261123.103951.422.0.001.json, with date, time, process, thread and number.
func isReport(name string) bool {
	return strings.HasPrefix(name, "report.") && strings.HasSuffix(name, ".json") && strings.Count(name, ".") == 6
}

func pidOf(name string) int {
	pid, _ := strconv.Atoi(strings.Split(name, ".")[3])
	return pid
}

// read reads a report, and gives what is kept of it.
func (r *Reports) read(name string) (*Report, []byte, error) {
	file, err := r.in.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxReport {
		return nil, nil, errors.Join(err, errors.New("it is no file of a report's size"))
	}
	return parse(io.LimitReader(file, maxReport))
}

// keptParts are those of a report that are kept. Of the others environmentVariables
// are secret, as are the addresses in libuv and what is in workers, and what a later
// Node may add is not known.
var keptParts = []string{
	"header", "javascriptStack", "javascriptHeap", "nativeStack", "resourceUsage", "uvthreadResourceUsage", "userLimits", "sharedObjects",
}

// parse reads a report, and gives what is kept of it.
func parse(text io.Reader) (*Report, []byte, error) {
	part := &io.LimitedReader{R: text}
	parts, err := partsOf(json.NewDecoder(part), part)
	if err != nil {
		if part.N == 0 {
			err = fmt.Errorf("a part of it has more than %d KiB", maxPart>>10)
		}
		return nil, nil, err
	}
	var header map[string]json.RawMessage
	if err := json.Unmarshal(parts["header"], &header); err != nil {
		return nil, nil, err
	}
	var said struct{ Event, Trigger string }
	var stack struct {
		Message string
		Stack   []string
	}
	var heap struct{ UsedMemory, MemoryLimit int64 }
	_ = json.Unmarshal(parts["header"], &said)
	_ = json.Unmarshal(parts["javascriptStack"], &stack)
	_ = json.Unmarshal(parts["javascriptHeap"], &heap)
	report := &Report{
		Event: short(said.Event), Trigger: short(said.Trigger), HeapUsed: heap.UsedMemory, HeapLimit: heap.MemoryLimit,
	}
	if report.Exception() {
		report.Message = short(message(stack.Message, stack.Stack))
	}
	for _, secret := range []string{"commandLine", "networkInterfaces", "cwd"} {
		delete(header, secret)
	}
	if parts["header"], err = json.Marshal(header); err != nil {
		return nil, nil, err
	}
	kept, err := json.Marshal(parts)
	return report, kept, err
}

// partsOf reads the parts that are kept. The limit is set anew for each, and for
// each word of what goes by.
func partsOf(d *json.Decoder, limit *io.LimitedReader) (map[string]json.RawMessage, error) {
	next := func() (json.Token, error) {
		limit.N = maxPart
		return d.Token()
	}
	begin, err := next()
	if err == nil && begin != json.Delim('{') {
		err = errors.New("it is no JSON object")
	}
	parts := map[string]json.RawMessage{}
	for err == nil {
		var name json.Token
		if name, err = next(); err != nil || name == json.Delim('}') {
			break
		}
		limit.N = maxPart
		if key, _ := name.(string); slices.Contains(keptParts, key) {
			var part json.RawMessage
			err = d.Decode(&part)
			parts[key] = part
		} else {
			err = pass(next)
		}
	}
	return parts, err
}

// pass lets a value go by.
func pass(next func() (json.Token, error)) error {
	for depth := 0; ; {
		t, err := next()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxDepth {
				return errors.New("it is nested too deeply")
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// message is the first line of an exception's message. In the way that node shows
// it, the place may stand before it: the file, the line of its source, a caret below
// and an empty line.
func message(first string, rest []string) string {
	for i, line := range rest[:min(len(rest), 4)] {
		if caret := strings.TrimSpace(line); caret != "" && strings.Trim(caret, "^") == "" && i+2 < len(rest) && rest[i+1] == "" {
			return rest[i+2]
		}
	}
	if first == "No stack." { // of what was thrown and is no Error
		return ""
	}
	first, _, _ = strings.Cut(first, "\n")
	return first
}

// short is a text of the app's that is safe to show: one line of no great length.
func short(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if runes := []rune(text); len(runes) > maxMessage {
		return string(runes[:maxMessage]) + "…"
	}
	return text
}

// keep keeps a report.
func (r *Reports) keep(name string, text []byte) error {
	unfinished := filepath.Join(r.kept, "."+name)
	if err := os.WriteFile(unfinished, text, 0o600); err != nil {
		return err
	}
	return os.Rename(unfinished, filepath.Join(r.kept, name))
}

// prune deletes the oldest: their names begin with the time.
func (r *Reports) prune() {
	files, _ := os.ReadDir(r.kept)
	files = slices.DeleteFunc(files, func(f os.DirEntry) bool { return !isReport(f.Name()) })
	for _, f := range files[:max(len(files)-keptReports, 0)] {
		_ = os.Remove(filepath.Join(r.kept, f.Name()))
	}
}
