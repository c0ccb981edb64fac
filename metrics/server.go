package metrics

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	pid1 "evermore/init"
	"evermore/signals"
)

const (
	defaultMaxConns = 64

	// No client may hold a connection for long without asking or reading. The
	// read time-out ends a request's context too, so neither it nor the write
	// time-out may be shorter than what an answer waits for.
	headerTimeout = 2 * time.Second
	readTimeout   = 10 * time.Second
	writeTimeout  = 10 * time.Second
	// idleTimeout is longer than the usual scrape intervals, so that Prometheus
	// keeps its connection.
	idleTimeout = 90 * time.Second
	// maxHeader is with net/http's own slop a limit of 8 KiB.
	maxHeader = 4 << 10

	// bodySize is a little more than a scrape's answer.
	bodySize = 16 << 10
)

const index = `evermore

/metrics  for Prometheus
/livez    200 while evermore can do its work, 503 and why otherwise (?verbose: all checks)
/readyz   200 while the app is up and ready, 503 and why otherwise (?verbose: all checks)
/healthz  the same as /readyz, as JSON with all there is to know
`

// ServerOptions are how a Server behaves.
type ServerOptions struct {
	// LiveTimeout is how long the app may be neither ready nor in back-off
	// before /livez fails. 0: for ever.
	LiveTimeout time.Duration
	// MaxConns is how many connections there may be at a time; one more sheds
	// the oldest. 0: 64.
	MaxConns int
	// Log takes what failed in serving, without a word that it was HTTP; at most
	// one line a minute, as clients cause them. nil: they are dropped.
	Log func(string)
	// Answered, when not nil, is called after each answer.
	Answered func()
}

// Server answers /metrics, /livez, /readyz and /healthz. It is read-only.
type Server struct {
	src         Source
	gatherer    prometheus.Gatherer
	liveTimeout time.Duration
	maxConns    int
	log         *warner
	answered    func()

	http     http.Server
	listener *listener

	ctx    context.Context // of all that waits for the app; ended by Stop
	cancel context.CancelFunc
	tasks  sync.WaitGroup // every goroutine

	gathering sync.Mutex  // one scrape's garbage at a time
	asking    atomic.Bool // askReadyLater has a task
}

// NewServer makes a server that shows the series of g and the health of src.
func NewServer(src Source, g prometheus.Gatherer, o ServerOptions) *Server {
	s := &Server{src: src, gatherer: g, liveTimeout: o.LiveTimeout, maxConns: o.MaxConns, log: &warner{log: o.Log}, answered: o.Answered}
	if s.maxConns <= 0 {
		s.maxConns = defaultMaxConns
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.http = http.Server{
		Handler:                      http.HandlerFunc(s.handle),
		DisableGeneralOptionsHandler: true, // OPTIONS is refused as any other method
		ReadHeaderTimeout:            headerTimeout,
		ReadTimeout:                  readTimeout,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		ErrorLog:                     log.New(s.log, "", 0),
		ConnState:                    func(c net.Conn, state http.ConnState) { c.(*conn).stateChanged(state) },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	return s
}

// connKey is the key of a request's *conn in its context.
type connKey struct{}

// Serve begins to answer on a listener that is bound already, and returns at
// once. The server owns the listener from then on. It is to be called once.
func (s *Server) Serve(ln net.Listener) {
	s.listener = &listener{Listener: ln, max: s.maxConns, warn: s.log.warn, open: &s.tasks, closed: make(chan struct{})}
	s.tasks.Go(func() { _ = s.http.Serve(s.listener) }) // its only error is that it was stopped
}

// Stop ends the server and waits until nothing of it is left. Requests that are
// being answered may finish until the context ends; then they are cut, and the
// context's error is returned.
func (s *Server) Stop(ctx context.Context) error {
	// With a context that has ended, Shutdown closes the listener and has each
	// connection end after its answer, but does not wait, which it would do by
	// polling.
	over, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.http.Shutdown(over)
	s.cancel()
	if s.listener != nil {
		s.listener.refuseAll()
	}
	ended := make(chan struct{})
	go func() {
		s.tasks.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		_ = s.http.Close()
		return ctx.Err()
	}
}

func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*conn); ok {
		c.beginAnswer()
	}
	if s.answered != nil {
		defer s.answered()
	}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "only GET and HEAD are answered here\n")
	case r.ContentLength != 0:
		refuse(w, http.StatusRequestEntityTooLarge, "no request here has a body\n")
	case r.URL.Path == "/metrics":
		s.serveMetrics(w)
	case r.URL.Path == "/livez":
		probe(w, r, s.live())
	case r.URL.Path == "/readyz":
		probe(w, r, s.ready())
	case r.URL.Path == "/healthz":
		s.serveHealth(w)
	case r.URL.Path == "/":
		text(w, http.StatusOK, index)
	default:
		text(w, http.StatusNotFound, "there is no such page; / lists what there is\n")
	}
}

// serveMetrics answers a scrape: in the text format, which every Prometheus
// reads, and uncompressed, since a compressor holds more memory than all the
// rest of evermore.
func (s *Server) serveMetrics(w http.ResponseWriter) {
	s.askReady() // the snapshot shows the result
	body, err := s.gather()
	if err != nil {
		s.log.warn("cannot collect all metrics: %v", err)
		if body.Len() == 0 {
			text(w, http.StatusInternalServerError, "the metrics cannot be collected: "+oneLine(err.Error())+"\n")
			return
		}
	}
	write(w, http.StatusOK, string(expfmt.NewFormat(expfmt.TypeTextPlain)), body.Bytes())
}

// gather gives the series that can be had, beside what went wrong with others.
func (s *Server) gather() (*bytes.Buffer, error) {
	s.gathering.Lock()
	defer s.gathering.Unlock()
	body := bytes.NewBuffer(make([]byte, 0, bodySize))
	families, err := s.gatherer.Gather()
	for _, f := range families {
		if _, e := expfmt.MetricFamilyToText(body, f); e != nil && err == nil {
			err = e
		}
	}
	return body, err
}

// health is what /healthz tells. Neither arguments nor environment are in it:
// they may hold secrets.
type health struct {
	Ready             bool              `json:"ready"`
	Live              bool              `json:"live"`
	Checks            map[string]string `json:"checks"` // "ok", or why not
	State             pid1.State        `json:"state"`
	PID               int               `json:"pid,omitempty"`
	StartedAt         *time.Time        `json:"started_at,omitempty"`
	UptimeSeconds     float64           `json:"uptime_seconds"`
	Starts            int               `json:"starts"`
	Restarts          int               `json:"restarts"`
	RestartsRemaining *int              `json:"restarts_remaining,omitempty"`
	Spinning          bool              `json:"spinning"`
	BackoffSeconds    float64           `json:"backoff_seconds"`
	LastExit          *lastExit         `json:"last_exit,omitempty"`
	Status            string            `json:"status,omitempty"`
	Workers           []workerHealth    `json:"workers"`
}

// workerHealth is what is true of one of the app's processes.
type workerHealth struct {
	Worker    int        `json:"worker"`
	State     pid1.State `json:"state"`
	PID       int        `json:"pid,omitempty"`
	StartedAt *time.Time `json:"started_at,omitempty"`
	Ready     bool       `json:"ready"`
	NotReady  string     `json:"not_ready,omitempty"`
	Restarts  int        `json:"restarts"`
}

type lastExit struct {
	At     time.Time   `json:"at"`
	Reason pid1.Reason `json:"reason"`
	Code   int         `json:"code"`
	Signal string      `json:"signal,omitempty"`
}

func (s *Server) serveHealth(w http.ResponseWriter) {
	live, ready := s.live(), s.ready()
	now := s.src.Snapshot()
	out := health{
		Live: allOK(live), Ready: allOK(ready), Checks: make(map[string]string),
		State: now.State, PID: now.PID, Starts: now.Starts, Restarts: now.Restarts,
		Spinning: now.Spinning, BackoffSeconds: now.Backoff.Seconds(), Status: now.Status,
		Workers: []workerHealth{},
	}
	for _, w := range s.src.Snapshots() {
		one := workerHealth{Worker: w.Worker, State: w.State, PID: w.PID, Ready: w.Ready, NotReady: oneLine(w.NotReady), Restarts: w.Restarts}
		if !w.StartedAt.IsZero() {
			one.StartedAt = &w.StartedAt
		}
		out.Workers = append(out.Workers, one)
	}
	for _, c := range append(live, ready...) {
		if c.ok() {
			out.Checks[c.name] = "ok"
		} else {
			out.Checks[c.name] = c.why
		}
	}
	if !now.StartedAt.IsZero() {
		out.StartedAt = &now.StartedAt
		out.UptimeSeconds = time.Since(now.StartedAt).Round(time.Millisecond).Seconds()
	}
	if now.RestartsRemaining >= 0 {
		out.RestartsRemaining = &now.RestartsRemaining
	}
	if !now.LastExitAt.IsZero() {
		out.LastExit = &lastExit{At: now.LastExitAt, Reason: now.LastReason, Code: now.LastExit.Status()}
		if now.LastExit.Signal != 0 {
			out.LastExit.Signal = signals.Name(now.LastExit.Signal)
		}
	}
	body, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		text(w, http.StatusInternalServerError, err.Error()+"\n")
		return
	}
	write(w, status(out.Ready), "application/json", append(body, '\n'))
}

// probe answers for checks: with "ok" or the first failure, or with all of them
// in the form that the API server of Kubernetes gives its own.
func probe(w http.ResponseWriter, r *http.Request, checks []check) {
	var b strings.Builder
	ok, verbose := allOK(checks), r.URL.Query().Has("verbose")
	for _, c := range checks {
		switch {
		case verbose && c.ok():
			fmt.Fprintf(&b, "[+]%s\n", c)
		case verbose:
			fmt.Fprintf(&b, "[-]%s\n", c)
		case !c.ok() && b.Len() == 0:
			fmt.Fprintf(&b, "%s\n", c)
		}
	}
	switch name := r.URL.Path[1:]; {
	case !verbose && ok:
		b.WriteString("ok\n")
	case verbose && ok:
		b.WriteString(name + " check passed\n")
	case verbose:
		b.WriteString(name + " check failed\n")
	}
	text(w, status(ok), b.String())
}

func status(ok bool) int {
	if ok {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

// refuse answers a request that may have a body, without a look at the body:
// net/http would read up to 256 KiB of it, before the answer to keep the
// connection and after it in any case.
func refuse(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now())
	text(w, code, body)
}

func text(w http.ResponseWriter, code int, body string) {
	write(w, code, "text/plain; charset=utf-8", []byte(body))
}

// write answers in one piece. A client that has gone is no error.
func write(w http.ResponseWriter, code int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = w.Write(body)
}

// warner passes on at most one line a minute.
type warner struct {
	log func(string)

	mu      sync.Mutex
	last    time.Time
	dropped int
}

const warnInterval = time.Minute

func (w *warner) warn(format string, args ...any) { w.line(fmt.Sprintf(format, args...)) }

// Write takes the lines of net/http.
func (w *warner) Write(p []byte) (int, error) {
	w.line(strings.TrimSpace(strings.TrimPrefix(string(p), "http: ")))
	return len(p), nil
}

func (w *warner) line(s string) {
	if w.log == nil {
		return
	}
	w.mu.Lock()
	if !w.last.IsZero() && time.Since(w.last) < warnInterval {
		w.dropped++
		w.mu.Unlock()
		return
	}
	if w.dropped > 0 {
		s += fmt.Sprintf(" (and %d more lines since the last one)", w.dropped)
	}
	w.last, w.dropped = time.Now(), 0
	w.mu.Unlock()
	w.log(s)
}
