package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"time"
)

// ErrUnresponsive says that a supervisor runs but does not answer in time: it is
// frozen, or its machine is very busy.
var ErrUnresponsive = errors.New("it does not answer")

// Failed is an answer that is no success.
type Failed struct {
	Status int // of HTTP
	Why    string
}

func (f *Failed) Error() string { return f.Why }

// maxAnswer bounds an answer: the environment in a recipe may have megabytes.
const maxAnswer = 16 << 20

// Call makes a request to the supervisor of the record and reads its answer into
// one. in and answer may be nil. The context says how long it may take:
// ErrUnresponsive then. The answer of one that refuses is a *Failed.
func (r *Record) Call(ctx context.Context, method, path string, in, answer any) error {
	body, err := r.open(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return unresponsive(ctx, err)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}

// Open makes a request and gives the body of the answer, which may go on for
// ever: until the context is done.
func (r *Record) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	return r.open(ctx, http.MethodGet, path, nil)
}

func (r *Record) open(ctx context.Context, method, path string, in any) (io.ReadCloser, error) {
	var text []byte
	var err error
	if in != nil {
		if text, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	conn, err := r.dial(ctx)
	if err != nil {
		return nil, unresponsive(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	var request bytes.Buffer
	// A pooling transport has nothing to pool for one request.
	fmt.Fprintf(&request, "%s %s HTTP/1.0\r\nHost: evermore\r\nContent-Length: %d\r\n\r\n%s", method, path, len(text), text)
	_, err = conn.Write(request.Bytes())
	var answer *http.Response
	if err == nil {
		answer, err = http.ReadResponse(bufio.NewReader(conn), nil) //nolint:bodyclose // answerBody closes the connection that it is read from
	}
	if err != nil {
		stop()
		conn.Close()
		return nil, unresponsive(ctx, err)
	}
	body := &answerBody{answer.Body, conn, stop}
	if answer.StatusCode/100 != 2 {
		defer body.Close()
		f := &Failed{Status: answer.StatusCode}
		var said Failure
		if json.NewDecoder(io.LimitReader(body, maxBody)).Decode(&said) == nil {
			f.Why = said.Error
		}
		if f.Why == "" {
			f.Why = "it answers " + answer.Status
		}
		return nil, f
	}
	return body, nil
}

type answerBody struct {
	io.Reader
	conn io.Closer
	stop func() bool
}

func (b *answerBody) Close() error {
	b.stop()
	return b.conn.Close()
}

// unresponsive tells a time that is over from other failures. EAGAIN: so many
// wait for an answer that no more may (unix(7)).
func unresponsive(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, syscall.EAGAIN) {
		return ErrUnresponsive
	}
	return err
}

// State asks for the state.
func (r *Record) State(ctx context.Context) (State, error) {
	var s State
	err := r.Call(ctx, http.MethodGet, "/v1/state", nil, &s)
	return s, err
}

// AskRecipe gives how the app is started again, its environment included.
func (r *Record) AskRecipe(ctx context.Context) (Recipe, error) {
	var p Recipe
	err := r.Call(ctx, http.MethodGet, "/v1/recipe", nil, &p)
	return p, err
}

// Deaths asks for the last deaths.
func (r *Record) Deaths(ctx context.Context) (Deaths, error) {
	var d Deaths
	err := r.Call(ctx, http.MethodGet, "/v1/deaths", nil, &d)
	return d, err
}

// Restart starts the app anew and gives its pid when it runs.
func (r *Record) Restart(ctx context.Context) (pid int, err error) {
	var a RestartAnswer
	err = r.Call(ctx, http.MethodPost, "/v1/restart", nil, &a)
	return a.PID, err
}

// Reload replaces each process by a new one. A *Failed says why that was not done;
// those that had not been replaced then go on.
func (r *Record) Reload(ctx context.Context) ([]Worker, error) {
	var a ReloadAnswer
	err := r.Call(ctx, http.MethodPost, "/v1/reload", nil, &a)
	return a.Workers, err
}

// Scale makes n the number of processes. It does not wait for their starts or ends.
func (r *Record) Scale(ctx context.Context, n int) error {
	return r.Call(ctx, http.MethodPost, "/v1/scale", ScaleRequest{n}, nil)
}

// Stop ends the app and its supervisor; it returns the supervisor's exit code
// when nothing of the app is left.
func (r *Record) Stop(ctx context.Context, q StopRequest) (code int, err error) {
	var a StopAnswer
	err = r.Call(ctx, http.MethodPost, "/v1/stop", q, &a)
	return a.Code, err
}

// Signal sends a signal to the app.
func (r *Record) Signal(ctx context.Context, signal string) error {
	return r.Call(ctx, http.MethodPost, "/v1/signal", SignalRequest{signal}, nil)
}
