package control

import (
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
	// headerTime is how long a request may take to say what it wants.
	headerTime = 2 * time.Second
	// eventBuffer is how many events a slow reader may lag behind.
	eventBuffer = 256
)

// Supervisor is what the server asks and commands.
type Supervisor interface {
	State() State
	Recipe() Recipe
	Restart(context.Context) error
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
//	GET  /v1/events                       one JSON object a line, as they happen
//	GET  /v1/logs?stream=log|out|err&n=100&follow=true
//	POST /v1/stop     {"signal": "INT"}   StopAnswer, when nothing of the app is left
//	POST /v1/restart                      RestartAnswer, when the app runs again
//	POST /v1/signal   {"signal": "USR2"}  sends it to the app
//
// Bodies may be empty where every field is optional. An answer that is no success
// is a Failure.
type Server struct {
	supervisor Supervisor
	http       *http.Server
	listeners  []net.Listener
	files      []string

	mu       sync.Mutex
	readers  map[chan []byte]bool // of events; closed when they lag or it ends
	ended    chan struct{}        // closed when exitCode is known
	exitCode int
}

// Serve begins to serve the supervisor of the registration.
func Serve(reg *Registration, s Supervisor) (*Server, error) {
	listeners, err := reg.record.listen(reg.roots[0])
	if err != nil {
		return nil, fmt.Errorf("cannot open the control socket: %w", err)
	}
	srv := &Server{
		supervisor: s, listeners: listeners, readers: map[chan []byte]bool{}, ended: make(chan struct{}),
	}
	for _, root := range reg.roots {
		srv.files = append(srv.files, filepath.Join(root, "sock", reg.record.socket()))
	}
	for _, root := range reg.roots[1:] {
		// Who finds the record there finds the socket, too.
		dir := filepath.Join(root, "sock")
		if mkdir(dir) == nil && private(dir) == nil {
			_ = os.Link(srv.files[0], filepath.Join(dir, reg.record.socket()))
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/state", srv.state)
	mux.HandleFunc("GET /v1/recipe", srv.recipe)
	mux.HandleFunc("GET /v1/events", srv.events)
	mux.HandleFunc("GET /v1/logs", srv.logs)
	mux.HandleFunc("POST /v1/stop", srv.stop)
	mux.HandleFunc("POST /v1/restart", srv.restart)
	mux.HandleFunc("POST /v1/signal", srv.signal)
	srv.http = &http.Server{
		Handler:           http.MaxBytesHandler(mux, maxBody),
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       headerTime,
		MaxHeaderBytes:    maxBody,
		ErrorLog:          log.New(io.Discard, "", 0), // a client's faults are the client's
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
	s.mu.Lock()
	s.exitCode = code
	close(s.ended)
	for r := range s.readers {
		close(r)
	}
	s.readers = nil
	s.mu.Unlock()
	for _, file := range s.files {
		_ = os.Remove(file)
	}
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
		case r <- line:
		default:
			close(r)
			delete(s.readers, r)
		}
	}
}

func (s *Server) state(w http.ResponseWriter, _ *http.Request) { reply(w, s.supervisor.State()) }

func (s *Server) recipe(w http.ResponseWriter, _ *http.Request) { reply(w, s.supervisor.Recipe()) }

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	events := make(chan []byte, eventBuffer)
	s.mu.Lock()
	if s.readers == nil {
		s.mu.Unlock()
		return
	}
	s.readers[events] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.readers, events)
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/x-ndjson")
	flush := http.NewResponseController(w)
	if flush.Flush() != nil {
		return
	}
	for {
		select {
		case line, ok := <-events:
			if !ok {
				return
			}
			if _, err := w.Write(line); err != nil || flush.Flush() != nil {
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
	out := &flushed{w: w, flush: http.NewResponseController(w), lines: q.Get("follow") == "true"}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err := s.supervisor.Logs(r.Context(), out, stream, n, out.lines); err != nil && !out.begun && r.Context().Err() == nil {
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
	case <-s.ended:
		reply(w, StopAnswer{Code: s.exitCode})
	case <-r.Context().Done():
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

func reply(w http.ResponseWriter, what any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(what)
}

func fail(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(Failure{err.Error()})
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
