package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"evermore/signals"
)

const (
	// maxBody bounds what a request may send.
	maxBody = 4 << 10
	// maxConns bounds how many requests are served at a time; the next wait.
	maxConns = 64
	// maxLasting bounds those that may last: who waits and reads must not keep out
	// who stops.
	maxLasting = 48
	// requestTime is how long a request may take to say what it wants.
	requestTime = 2 * time.Second
	// answerTime is how long the reading of an answer may take that is not a stream.
	answerTime = 10 * time.Second
	// eventBuffer is how many events a slow reader may lag behind. It has room for
	// the orphans that are reaped at once (512).
	eventBuffer = 1024
)

// MaxInstances bounds how many processes may be asked for.
const MaxInstances = 128

// Supervisor is what the server asks and commands.
type Supervisor interface {
	State() State
	Recipe() Recipe
	Deaths() Deaths
	Restart(context.Context) error
	// Reload returns when all processes are new ones, or with why they are not.
	Reload(context.Context) error
	// Scale makes n, at least 1, the number of processes.
	Scale(ctx context.Context, n int) error
	// Stop returns when the app has ended.
	Stop(context.Context, syscall.Signal) error
	Signal(context.Context, syscall.Signal) error
	// Logs writes the last n lines of a stream (log, out or err) and, with follow,
	// what is added to it, until the context is done.
	Logs(ctx context.Context, w io.Writer, stream string, n int, follow bool) error
}

// Server gives the API of one supervisor, HTTP and JSON, on its sockets:
//
//	GET  /v1/state                        State
//	GET  /v1/recipe                       Recipe
//	GET  /v1/deaths                       Deaths
//	GET  /v1/events                       one JSON object a line, as they happen
//	GET  /v1/logs?stream=log|out|err&n=100&follow=true
//	POST /v1/stop     {"signal": "INT"}   StopAnswer, when nothing of the app is left
//	POST /v1/restart                      RestartAnswer, when the app runs again
//	POST /v1/reload                       ReloadAnswer, when all processes are new
//	POST /v1/scale    {"instances": 4}    processes from now on
//	POST /v1/signal   {"signal": "USR2"}  sends it to the app
//
// Bodies may be empty where every field is optional. An answer that is no success
// is a Failure. docs/control.md describes it all.
type Server struct {
	supervisor Supervisor
	http       *http.Server
	file       string
	lasting    chan struct{} // holds a token for each request that may last

	mu       sync.Mutex
	readers  map[*eventReader]bool // nil: it has ended
	over     context.Context       // done when exitCode is known
	end      context.CancelFunc
	exitCode int
}

// eventReader is somebody who reads events.
type eventReader struct {
	lines chan []byte // closed when it is cut off
	conn  *http.ResponseController
}

// endpoint is a thing that can be asked of a Server.
type endpoint struct {
	method, path string
	serve        http.HandlerFunc
}

func (s *Server) endpoints() []endpoint {
	return []endpoint{
		{"GET", "/v1/state", s.state},
		{"GET", "/v1/recipe", s.recipe},
		{"GET", "/v1/deaths", s.deaths},
		{"GET", "/v1/events", s.atLength(s.events)},
		{"GET", "/v1/logs", s.atLength(s.logs)},
		{"POST", "/v1/stop", s.stop},
		{"POST", "/v1/restart", s.atLength(s.restart)},
		{"POST", "/v1/reload", s.atLength(s.reload)},
		{"POST", "/v1/scale", s.scale},
		{"POST", "/v1/signal", s.signal},
	}
}

// Serve begins to serve the supervisor of the registration.
func Serve(reg *Registration, s Supervisor) (*Server, error) {
	listeners, err := reg.record.listen()
	if err != nil {
		return nil, fmt.Errorf("cannot open the control socket: %w", err)
	}
	srv := &Server{
		supervisor: s, lasting: make(chan struct{}, maxLasting), readers: map[*eventReader]bool{},
	}
	srv.over, srv.end = context.WithCancel(context.Background())
	srv.file = filepath.Join(reg.record.root, "sock", reg.record.socket())
	mux := http.NewServeMux()
	for _, e := range srv.endpoints() {
		mux.HandleFunc(e.method+" "+e.path, e.serve)
		mux.HandleFunc(e.path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Allow", e.method)
			fail(w, http.StatusMethodNotAllowed, fmt.Errorf("use %s for %s", e.method, e.path))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Errorf("there is no %s", r.URL.Path))
	})
	srv.http = &http.Server{
		Handler:        whole(mux),
		ReadTimeout:    requestTime,
		MaxHeaderBytes: maxBody,
		ErrorLog:       log.New(io.Discard, "", 0), // a client's faults are the client's
	}
	srv.http.SetKeepAlivesEnabled(false)
	slots := make(chan struct{}, maxConns)
	for _, l := range listeners {
		go func() { _ = srv.http.Serve(limited{l, slots}) }()
	}
	return srv, nil
}

// Ended lets those who asked for the end know that it has come, and closes the
// sockets. It waits for their answers, until the context is done.
func (s *Server) Ended(ctx context.Context, code int) {
	_ = os.Remove(s.file)
	s.mu.Lock()
	s.exitCode = code
	s.end()
	for r := range s.readers {
		close(r.lines)
	}
	s.readers = nil
	s.mu.Unlock()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close()
	}
}

// Publish gives an event, one line of JSON, to those who read them. It never
// waits: who lags too far behind is cut off.
func (s *Server) Publish(event func() []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.readers) == 0 {
		return
	}
	line := event()
	for r := range s.readers {
		select {
		case r.lines <- line:
		default:
			close(r.lines)
			delete(s.readers, r)
			_ = r.conn.SetWriteDeadline(time.Unix(1, 0)) // it may be in the midst of a line
		}
	}
}

// whole reads a request to its end before it is served: only then does net/http
// watch the connection, and the request's context end when the client goes away.
func whole(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			code := http.StatusBadRequest
			if errors.As(err, new(*http.MaxBytesError)) {
				code = http.StatusRequestEntityTooLarge
			}
			fail(w, code, fmt.Errorf("cannot read the request: %w", err))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(text))
		h.ServeHTTP(w, r)
	})
}

// atLength serves a request that may last, unless there are too many of them.
func (s *Server) atLength(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.lasting <- struct{}{}:
			defer func() { <-s.lasting }()
			serve(w, r)
		default:
			fail(w, http.StatusServiceUnavailable, fmt.Errorf("%d requests for events, logs, restarts and reloads are served already: end one of them", maxLasting))
		}
	}
}

func (s *Server) state(w http.ResponseWriter, _ *http.Request) { reply(w, s.supervisor.State()) }

func (s *Server) recipe(w http.ResponseWriter, _ *http.Request) { reply(w, s.supervisor.Recipe()) }

func (s *Server) deaths(w http.ResponseWriter, _ *http.Request) { reply(w, s.supervisor.Deaths()) }

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	reader := &eventReader{make(chan []byte, eventBuffer), http.NewResponseController(w)}
	s.mu.Lock()
	if s.readers == nil {
		s.mu.Unlock()
		fail(w, http.StatusServiceUnavailable, errors.New("the app has ended"))
		return
	}
	s.readers[reader] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.readers, reader)
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/x-ndjson")
	if reader.conn.Flush() != nil {
		return
	}
	for {
		select {
		case line, ok := <-reader.lines:
			if !ok {
				return
			}
			if _, err := w.Write(line); err != nil {
				return
			}
			if len(reader.lines) == 0 && reader.conn.Flush() != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	n, stream := 100, "log"
	if v := q.Get("n"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil || n < 0 {
			fail(w, http.StatusBadRequest, fmt.Errorf("cannot read n=%q as a number of lines", v))
			return
		}
	}
	if v := q.Get("stream"); v != "" {
		stream = v
	}
	if stream != "log" && stream != "out" && stream != "err" {
		fail(w, http.StatusBadRequest, fmt.Errorf("unknown stream %q: use log, out or err", stream))
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.over, cancel)()
	out := &flushed{w: w, flush: http.NewResponseController(w), lines: q.Get("follow") == "true"}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err := s.supervisor.Logs(ctx, out, stream, n, out.lines); err != nil && !out.begun && r.Context().Err() == nil {
		fail(w, http.StatusNotFound, err)
	}
}

// flushed is an answer that goes out as it is written where somebody follows.
type flushed struct {
	w     io.Writer
	flush *http.ResponseController
	lines bool
	begun bool
}

func (f *flushed) Write(p []byte) (int, error) {
	f.begun = true
	n, err := f.w.Write(p)
	if err == nil && f.lines {
		err = f.flush.Flush()
	}
	return n, err
}

func (s *Server) stop(w http.ResponseWriter, r *http.Request) {
	var q StopRequest
	if !body(w, r, &q) {
		return
	}
	var by syscall.Signal
	if q.Signal != "" {
		var err error
		if by, err = signals.Parse(q.Signal); err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
	}
	if err := s.supervisor.Stop(r.Context(), by); err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	select {
	case <-s.over.Done():
		reply(w, StopAnswer{Code: s.exitCode})
	case <-r.Context().Done(): // who has only closed its own half still reads
		fail(w, http.StatusServiceUnavailable, r.Context().Err())
	}
}

func (s *Server) restart(w http.ResponseWriter, r *http.Request) {
	if !body(w, r, &struct{}{}) {
		return
	}
	if err := s.supervisor.Restart(r.Context()); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	reply(w, RestartAnswer{PID: s.supervisor.State().LastPID})
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	if !body(w, r, &struct{}{}) {
		return
	}
	if err := s.supervisor.Reload(r.Context()); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	reply(w, ReloadAnswer{Workers: s.supervisor.State().Workers})
}

func (s *Server) scale(w http.ResponseWriter, r *http.Request) {
	var q ScaleRequest
	if !body(w, r, &q) {
		return
	}
	if q.Instances < 1 || q.Instances > MaxInstances {
		fail(w, http.StatusBadRequest, fmt.Errorf("instances is %d: use 1 to %d", q.Instances, MaxInstances))
		return
	}
	if err := s.supervisor.Scale(r.Context(), q.Instances); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	reply(w, struct{}{})
}

func (s *Server) signal(w http.ResponseWriter, r *http.Request) {
	var q SignalRequest
	if !body(w, r, &q) {
		return
	}
	sig, err := signals.Parse(q.Signal)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if err := s.supervisor.Signal(r.Context(), sig); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	reply(w, struct{}{})
}

// body reads the request's body, if there is one.
func body(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if errors.Is(err, io.EOF) {
		return true
	}
	if err == nil && d.More() {
		err = errors.New("something follows the JSON object")
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot read the request: %w", err))
		return false
	}
	return true
}

func reply(w http.ResponseWriter, what any) { answer(w, http.StatusOK, what) }

func fail(w http.ResponseWriter, code int, err error) { answer(w, code, Failure{err.Error()}) }

func answer(w http.ResponseWriter, code int, what any) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(what)
}

// limited is a listener that accepts no more than there are slots.
type limited struct {
	net.Listener
	slots chan struct{}
}

func (l limited) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &slotted{Conn: conn, slots: l.slots}, nil
}

type slotted struct {
	net.Conn
	once  sync.Once
	slots chan struct{}
}

func (c *slotted) Close() error {
	c.once.Do(func() { <-c.slots })
	return c.Conn.Close()
}
