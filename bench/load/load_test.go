package load

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// patience is for what must happen; nothing waits for it to pass.
const patience = time.Minute

// server answers each connection by a function, one after the other.
func server(t *testing.T, serve func(*net.TCPConn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c.(*net.TCPConn))
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// receive reads a request from a connection.
func receive(t *testing.T, from *bufio.Reader) {
	request, err := http.ReadRequest(from)
	if err == nil {
		_, err = io.Copy(io.Discard, request.Body)
	}
	if err != nil {
		t.Error(err)
	}
}

const answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"

func newClient(address string, kept bool) *client {
	return &client{
		load: Load{Address: address, Timeout: patience},
		kept: kept, body: make([]byte, 1<<20), result: newResult(),
	}
}

// What becomes of a request, by what the server does with its connection.
func TestOutcomes(t *testing.T) {
	const hanging = time.Second / 10
	cases := []struct {
		name    string
		serve   func(*net.TCPConn, *bufio.Reader)
		request Request
		timeout time.Duration
		want    Result
		err     error
	}{
		{
			name:  "answered",
			serve: func(c *net.TCPConn, _ *bufio.Reader) { io.WriteString(c, answer) },
			want:  Result{Answered: 1},
		},
		{
			name:    "a body arrives whole",
			serve:   func(c *net.TCPConn, _ *bufio.Reader) { io.WriteString(c, answer) },
			request: Request{Body: 1 << 20},
			want:    Result{Answered: 1},
		},
		{
			name:  "no answer",
			serve: func(*net.TCPConn, *bufio.Reader) {},
			want:  Result{Cut: 1}, err: io.ErrUnexpectedEOF,
		},
		{
			name:  "half an answer",
			serve: func(c *net.TCPConn, _ *bufio.Reader) { io.WriteString(c, answer[:len(answer)-1]) },
			want:  Result{Cut: 1}, err: io.ErrUnexpectedEOF,
		},
		{
			name:  "a reset",
			serve: func(c *net.TCPConn, _ *bufio.Reader) { c.SetLinger(0) },
			want:  Result{Cut: 1}, err: syscall.ECONNRESET,
		},
		{
			name: "another status",
			serve: func(c *net.TCPConn, _ *bufio.Reader) {
				io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
			},
			want: Result{Rejected: 1},
		},
		{
			name: "no answer in time", timeout: hanging,
			serve: func(_ *net.TCPConn, from *bufio.Reader) { from.ReadByte() },
			want:  Result{TimedOut: 1}, err: os.ErrDeadlineExceeded,
		},
		{
			name: "half an answer in time", timeout: hanging,
			serve: func(c *net.TCPConn, from *bufio.Reader) {
				io.WriteString(c, answer[:len(answer)-1])
				from.ReadByte()
			},
			want: Result{TimedOut: 1}, err: os.ErrDeadlineExceeded,
		},
	}
	for _, c := range cases {
		for _, kept := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, kept %t", c.name, kept), func(t *testing.T) {
				client := newClient(server(t, func(conn *net.TCPConn) {
					defer conn.Close()
					from := bufio.NewReader(conn)
					receive(t, from)
					c.serve(conn, from)
				}), kept)
				if c.timeout > 0 {
					client.load.Timeout = c.timeout
				}
				client.count(c.request)
				check(t, &client.result, c.want)
				if c.want.Answered == 0 {
					if err := client.result.Failures[0].Err; c.err != nil && !errors.Is(err, c.err) {
						t.Errorf("it failed with %v, want %v", err, c.err)
					}
					if client.conn != nil {
						t.Error("the connection is kept after a failure")
					}
				}
				client.drop()
			})
		}
	}
}

// check compares the counts.
func check(t *testing.T, got *Result, want Result) {
	t.Helper()
	counts := func(r *Result) [5]int { return [5]int{r.Answered, r.Refused, r.Cut, r.TimedOut, r.Rejected} }
	if counts(got) != counts(&want) {
		t.Errorf("answered, refused, cut, timed out, rejected: %v, want %v; %v", counts(got), counts(&want), got.Failures)
	}
	if failed := want.Refused + want.Cut + want.TimedOut + want.Rejected; got.Failed() != failed {
		t.Errorf("%d failures, want %d", got.Failed(), failed)
	}
}

func TestRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	client := newClient(l.Addr().String(), true)
	client.count(Request{})
	check(t, &client.result, Result{Refused: 1})
	if err := client.result.Failures[0]; !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
}

// The queue of a listener that nobody serves is full at some time: then no
// connection is made, and it is not refused either.
func TestNoConnectionInTime(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", bound.(*syscall.SockaddrInet4).Port)
	first, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	client := newClient(address, true)
	client.load.Timeout = time.Second / 10
	client.count(Request{})
	check(t, &client.result, Result{TimedOut: 1})
}

// A server may end a connection that is idle: the next request has another one.
// It may not end one on which a request has come: that one is cut, and not sent
// again, though it is idempotent and the connection was used before.
func TestKeptConnectionEnds(t *testing.T) {
	for _, reset := range []bool{false, true} {
		t.Run(fmt.Sprintf("reset %t", reset), func(t *testing.T) {
			var requests atomic.Int32
			client := newClient(server(t, func(conn *net.TCPConn) {
				defer conn.Close()
				if reset {
					conn.SetLinger(0)
				}
				from := bufio.NewReader(conn)
				receive(t, from)
				io.WriteString(conn, answer)
				if requests.Add(1) == 1 {
					return // while idle
				}
				receive(t, from)
				requests.Add(1)
			}), true)

			client.count(Request{})
			check(t, &client.result, Result{Answered: 1})
			for deadline := time.Now().Add(patience); !client.gone(); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the end of an idle connection is not seen")
				}
			}
			client.count(Request{})
			check(t, &client.result, Result{Answered: 2})

			if client.gone() {
				t.Error("a connection that is kept is taken for gone")
			}
			client.count(Request{})
			check(t, &client.result, Result{Answered: 2, Cut: 1})
			if n := requests.Load(); n != 3 {
				t.Errorf("the server has got %d requests, want 3", n)
			}
		})
	}
}

// What a server sends without being asked is no answer to the next request.
func TestUnaskedAnswer(t *testing.T) {
	sent := make(chan struct{})
	client := newClient(server(t, func(conn *net.TCPConn) {
		defer conn.Close()
		from := bufio.NewReader(conn)
		receive(t, from)
		io.WriteString(conn, answer+"HTTP/1.1 408 Request Timeout\r\n\r\n")
		close(sent)
		from.ReadByte()
	}), true)
	client.count(Request{})
	<-sent
	if !client.gone() {
		t.Error("the connection is taken for idle")
	}
	client.drop()
}

func TestRun(t *testing.T) {
	var connections, slow, bodies atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n, _ := io.Copy(io.Discard, r.Body); n == 100_000 && r.Method == http.MethodPost {
			bodies.Add(1)
		}
		if r.URL.Path == "/slow" {
			slow.Add(1)
		}
		fmt.Fprintln(w, r.Method)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	defer s.Close()

	run := Load{
		Address: s.Listener.Addr().String(), Kept: 2, Fresh: 2, Timeout: patience,
		Requests: Mixed(),
	}.Start()
	for deadline := time.Now().Add(patience); bodies.Load() < 20; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is asked")
		}
	}
	r := run.End()
	t.Log(r)

	check(t, r, Result{Answered: r.Answered})
	if got := int64(r.By["POST"]); got != bodies.Load() {
		t.Errorf("%d bodies were sent, %d arrived", got, bodies.Load())
	}
	if r.By["GET"]+r.By["POST"] != r.Answered {
		t.Errorf("%v by the answer, %d in all", r.By, r.Answered)
	}
	if want := r.Answered - int(slow.Load()); len(r.Latencies) != want {
		t.Errorf("%d latencies of %d requests that are not slow", len(r.Latencies), want)
	}
	if r.Latency(1) < r.Latency(0.5) || r.Latency(0.5) <= 0 {
		t.Errorf("latencies: p50 %v, max %v", r.Latency(0.5), r.Latency(1))
	}
	// Two clients have one each, the other two one a request.
	if n := connections.Load(); n < 2+int64(r.Answered)/10 || n >= int64(r.Answered) {
		t.Errorf("%d connections for %d requests", n, r.Answered)
	}
	if n := int64(r.Connections["GET"] + r.Connections["POST"]); n != connections.Load() {
		t.Errorf("%d connections, %d arrived", n, connections.Load())
	}
}

func TestDisturb(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const every, until = 2 * time.Second, 10 * time.Second
		began := time.Now()
		var at []time.Duration
		slow := func() error {
			at = append(at, time.Since(began))
			if len(at) == 2 {
				time.Sleep(3 * time.Second)
			}
			return nil
		}
		times, err := Disturb(every, until, slow)
		if want := []time.Duration{1e9, 3e9, 6e9, 8e9}; err != nil || times != 4 || !slices.Equal(at, want) {
			t.Errorf("done %d times, at %v, %v; want at %v", times, at, err, want)
		}
		if took := time.Since(began); took != until {
			t.Errorf("it took %v", took)
		}
		if times, err := Disturb(every, until, func() error { return io.EOF }); times != 1 || err != io.EOF {
			t.Errorf("what fails is done %d times, %v", times, err)
		}
	})
}

func TestLatency(t *testing.T) {
	r := Result{Latencies: []time.Duration{1, 2, 3, 4, 5}}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 3, 0.99: 4, 1: 5} {
		if got := r.Latency(q); got != want {
			t.Errorf("Latency(%v) = %d, want %d", q, got, want)
		}
	}
	if got := new(Result).Latency(1); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
