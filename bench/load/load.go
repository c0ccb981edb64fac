// Package load asks an HTTP server again and again and counts apart what becomes of
// each request.
//
// It sends nothing twice. net/http repeats an idempotent request when a connection
// breaks that was used before, and so hides what the sender of any other request, or
// a balancer, would see.
package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Load is what a server is asked, and by how many clients. A client waits for each
// answer before it asks again.
type Load struct {
	Address string // HOST:PORT
	// Kept clients use a connection as long as the server keeps it, Fresh ones make
	// one for each request.
	Kept, Fresh int
	// Requests are made in turn; each client begins with another one.
	Requests []Request
	Pause    time.Duration // after each request
	Timeout  time.Duration // of a request, with the connection that it needs
}

// A Request is a GET, or a POST when it has a body.
type Request struct {
	Path string
	Body int // bytes
	// Slow says that the server takes its time on purpose: how long is not among the
	// latencies.
	Slow bool
}

// Mixed are requests for bench/programs/server.js as clients have them: of 16, one is
// slow and one has a body.
func Mixed() []Request {
	return append(slices.Repeat([]Request{{Path: "/"}}, 13),
		Request{Path: "/slow", Slow: true}, Request{Path: "/"}, Request{Path: "/", Body: 100_000})
}

// A Result is what became of the requests of a Run.
type Result struct {
	Answered int // with status 200 and a whole body
	Refused  int // no connection could be made
	Cut      int // the connection broke after it was made, before the answer was whole
	TimedOut int
	Rejected int // answered with another status

	// Failures are the requests that were not answered, in the order of their clients.
	Failures []Failure
	// By is how many of those that were have got this body: where processes answer
	// with their pid, what each of them did.
	By map[string]int
	// Connections is how many connections had this body as their first answer.
	Connections map[string]int
	// Latencies are those of the answered requests, in ascending order.
	Latencies []time.Duration
	Took      time.Duration
}

func newResult() Result {
	return Result{By: make(map[string]int), Connections: make(map[string]int)}
}

// Failed is the number of requests that were not answered.
func (r *Result) Failed() int { return len(r.Failures) }

// Latency is what the share q (0 to 1) of the answered requests took at the most; 0:
// none was answered.
func (r *Result) Latency(q float64) time.Duration {
	if len(r.Latencies) == 0 {
		return 0
	}
	return r.Latencies[int(q*float64(len(r.Latencies)-1))]
}

func (r *Result) String() string {
	return fmt.Sprintf("%d answered in %v, %d refused, %d cut, %d timed out, %d with another status; latency p50 %v, p99 %v, max %v",
		r.Answered, r.Took.Round(time.Second/10), r.Refused, r.Cut, r.TimedOut, r.Rejected,
		r.Latency(0.5).Round(time.Millisecond/10), r.Latency(0.99).Round(time.Millisecond/10), r.Latency(1).Round(time.Millisecond/10))
}

// A Failure is a request that was not answered.
type Failure struct {
	At   time.Time // when it had failed
	Kept bool      // it was made by one of the Kept clients
	Err  error
}

func (f Failure) Error() string {
	return fmt.Sprintf("%s, connection kept: %t: %v", f.At.Format("15:04:05.000"), f.Kept, f.Err)
}

func (f Failure) Unwrap() error { return f.Err }

// A Run is a Load under way.
type Run struct {
	began   time.Time
	stop    context.CancelFunc
	clients []*client
	running sync.WaitGroup
}

// Start begins with the requests. Whoever starts a Run ends it.
func (l Load) Start() *Run {
	largest := 0
	for _, request := range l.Requests {
		largest = max(largest, request.Body)
	}
	body := bytes.Repeat([]byte("evermore"), largest/8+1)
	ctx, stop := context.WithCancel(context.Background())
	r := &Run{began: time.Now(), stop: stop}
	for i := range l.Kept + l.Fresh {
		c := &client{load: l, kept: i < l.Kept, body: body, result: newResult()}
		r.clients = append(r.clients, c)
		r.running.Go(func() { c.run(ctx, i) })
	}
	return r
}

// Disturb does something every so often for some time, or until it fails, and gives
// how often it was done. What takes longer is done again at once.
func Disturb(every, until time.Duration, do func() error) (times int, err error) {
	began := time.Now()
	for at := every / 2; at < until && err == nil; at = max(at+every, time.Since(began)) {
		time.Sleep(time.Until(began.Add(at)))
		times++
		err = do()
	}
	if err == nil {
		time.Sleep(time.Until(began.Add(until)))
	}
	return times, err
}

// End lets the requests under way be answered and gives what became of all.
func (r *Run) End() *Result {
	r.stop()
	r.running.Wait()
	result := newResult()
	all := &result
	all.Took = time.Since(r.began)
	for _, c := range r.clients {
		one := &c.result
		all.Answered += one.Answered
		all.Refused += one.Refused
		all.Cut += one.Cut
		all.TimedOut += one.TimedOut
		all.Rejected += one.Rejected
		all.Failures = append(all.Failures, one.Failures...)
		all.Latencies = append(all.Latencies, one.Latencies...)
		for by, n := range one.By {
			all.By[by] += n
		}
		for by, n := range one.Connections {
			all.Connections[by] += n
		}
	}
	slices.Sort(all.Latencies)
	return all
}

// A client makes one request at a time.
type client struct {
	load   Load
	kept   bool
	body   []byte // has that of each request as its beginning
	result Result

	conn *net.TCPConn // nil: none
	from *bufio.Reader
	// fresh says that the last connection has not brought an answer yet.
	fresh bool
}

func (c *client) run(ctx context.Context, first int) {
	defer c.drop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for i := first; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		c.count(c.load.Requests[i%len(c.load.Requests)])
		pause.Reset(c.load.Pause)
	}
}

// count makes a request and counts what becomes of it.
func (c *client) count(request Request) {
	began := time.Now()
	body, err := c.ask(request)
	took := time.Since(began)
	switch {
	case err == nil:
		c.result.Answered++
		by := strings.TrimSpace(body)
		c.result.By[by]++
		if c.fresh {
			c.result.Connections[by]++
			c.fresh = false
		}
		if !request.Slow {
			c.result.Latencies = append(c.result.Latencies, took)
		}
		return
	case errors.As(err, new(rejected)):
		c.result.Rejected++
	case isTimeout(err):
		c.result.TimedOut++
	case c.conn == nil:
		c.result.Refused++
	default:
		c.result.Cut++
	}
	c.drop()
	c.result.Failures = append(c.result.Failures, Failure{
		At: time.Now(), Kept: c.kept,
		Err: fmt.Errorf("%s after %v: %w", request.Path, took.Round(time.Millisecond), err),
	})
}

func isTimeout(err error) bool {
	failure, ok := errors.AsType[net.Error](err)
	return ok && failure.Timeout()
}

// rejected is a status other than 200.
type rejected string

func (r rejected) Error() string { return "answered with " + string(r) }

// ask makes a request and gives the body of its answer. After an error there is a
// connection if one could be made.
func (c *client) ask(request Request) (string, error) {
	deadline := time.Now().Add(c.load.Timeout)
	if c.conn != nil && c.gone() {
		c.drop()
	}
	if c.conn == nil {
		dialer := net.Dialer{Deadline: deadline}
		conn, err := dialer.Dial("tcp", c.load.Address)
		if err != nil {
			return "", err
		}
		c.conn = conn.(*net.TCPConn)
		c.from = bufio.NewReader(conn)
		c.fresh = true
	}
	if err := c.conn.SetDeadline(deadline); err != nil {
		return "", err
	}

	method := http.MethodGet
	if request.Body > 0 {
		method = http.MethodPost
	}
	asked, err := http.NewRequest(method, "http://"+c.load.Address+request.Path, bytes.NewReader(c.body[:request.Body]))
	if err != nil {
		return "", err
	}
	asked.Close = !c.kept
	if err := asked.Write(c.conn); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(c.from, asked)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", rejected(response.Status)
	}
	if response.Close || asked.Close {
		c.drop()
	}
	return string(body), nil
}

// gone tells whether the server has ended the connection between two requests, as
// it may: no client uses such a connection any more. Only what was sent can be cut.
func (c *client) gone() bool {
	if c.from.Buffered() > 0 {
		return true // nobody asked for that
	}
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return true
	}
	gone := true
	err = raw.Control(func(fd uintptr) {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = err != syscall.EAGAIN
	})
	return gone || err != nil
}

func (c *client) drop() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}
