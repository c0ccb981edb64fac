package appfile

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// patience is how long a file may take to say what it describes.
const patience = 10 * time.Second

// evaluator is the program that has node evaluate a file. Its descriptor 3 takes
// the result, since the file may print.
//
//go:embed evaluate.mjs
var evaluator string

// outcome is what the evaluator writes.
type outcome struct {
	Config json.RawMessage `json:"config"`
	Error  string          `json:"error"`
	Line   int             `json:"line"` // 0: unknown
}

// evaluate has node run a file and gives what it exports, as JSON. path is for
// messages, abs is where the file is.
func evaluate(ctx context.Context, path, abs string) ([]byte, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, fmt.Errorf("cannot evaluate %s: node is not in the PATH", path)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it takes more than %s", patience))
	defer cancel()
	result, stderr, err := runNode(ctx, node, abs)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	var out outcome
	switch {
	case err != nil && !errors.As(err, new(*exec.ExitError)):
		return nil, fmt.Errorf("cannot evaluate %s: %w", path, err)
	case len(result) > maxSize:
		return nil, fmt.Errorf("cannot evaluate %s: it makes more than 1 MiB of JSON", path)
	case json.Unmarshal(result, &out) != nil:
		// The file ended node itself, or node could not begin.
		return nil, fmt.Errorf("cannot evaluate %s: node ended without a result%s", path, complaint(err, stderr))
	case out.Error != "" && out.Line > 0:
		return nil, fmt.Errorf("%s:%d: %s", path, out.Line, oneLine(out.Error))
	case out.Error != "":
		return nil, fmt.Errorf("cannot evaluate %s: %s", path, oneLine(out.Error))
	case out.Config == nil:
		return nil, fmt.Errorf("%s exports nothing: it needs module.exports = { apps: [...] }", path)
	}
	return out.Config, nil
}

// runNode runs the evaluator and gives what it wrote to descriptor 3, up to a
// byte more than is allowed, and the begin of its stderr.
func runNode(ctx context.Context, node, abs string) (result, stderr []byte, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a pipe: %w", cause(err))
	}
	defer read.Close()
	var told head
	cmd := exec.CommandContext(ctx, node, "--input-type=module", "-e", evaluator, "--", abs)
	cmd.ExtraFiles = []*os.File{write}
	cmd.Stderr = &told
	// What a file that is given up has started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Start()
	_ = write.Close()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot start %s: %w", node, cause(err))
	}
	// What the file has started may hold the pipe open after node's end.
	stop := context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Now()) })
	defer stop()
	result, _ = io.ReadAll(io.LimitReader(read, maxSize+1))
	if len(result) > maxSize {
		_ = cmd.Cancel()
	}
	// A result is a result, whoever still holds stderr open.
	if err = cmd.Wait(); errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return result, told.text, err
}

// complaint is what is known of a node that ended without a result.
func complaint(err error, stderr []byte) string {
	var text strings.Builder
	if err != nil {
		text.WriteString(" (" + err.Error() + ")")
	}
	for line := range bytes.Lines(stderr) {
		// The error itself comes after the source that it is in.
		if bytes.Contains(line, []byte("rror: ")) {
			text.WriteString(": " + oneLine(string(line)))
			break
		}
	}
	return text.String()
}

// head keeps the first bytes that are written to it.
type head struct{ text []byte }

func (h *head) Write(b []byte) (int, error) {
	const most = 16 << 10
	h.text = append(h.text, b[:min(len(b), most-len(h.text))]...)
	return len(b), nil
}
