package pid1

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// While an app is not ready its URL is asked at growing intervals. Once it is,
// only those who want to know ask.
const (
	probeFirst   = 100 * time.Millisecond
	probeLast    = 2 * time.Second
	probeTimeout = time.Second
	// watchdogLate is by how much the watchdog's timer may be late where evermore
	// itself was not frozen.
	watchdogLate = 200 * time.Millisecond
)

// awaitReady begins to find out whether the run that has just begun is ready.
func (a *App) awaitReady() {
	switch a.opts.Ready.By {
	case ReadyUptime:
		a.snap.NotReady = fmt.Sprintf("it has been up for less than %s", readyUptime)
		a.ready.set(readyUptime)
	case ReadyNotify:
		a.snap.NotReady = "it has not said READY=1 yet"
	case ReadyListening:
		a.snap.NotReady = "it does not listen yet"
	case ReadyMessage:
		a.snap.NotReady = "it has not sent the message ready yet"
	case ReadyURL:
		a.snap.NotReady = a.opts.Ready.URL + " has not answered yet"
		if a.opts.Link == nil { // else it is asked when it listens
			a.ready.set(probeFirst)
		}
	}
}

// readyTimeElapsed: the app has been up for long enough, or is to be asked.
func (a *App) readyTimeElapsed() {
	if a.state != StateRunning {
		return
	}
	if a.opts.Ready.By == ReadyUptime {
		a.becameReady()
		return
	}
	n := a.run.n
	go func() {
		ok, why, _ := a.prober.get(context.Background())
		a.tellProbe(context.Background(), probed{n, ok, why})
	}()
}

// probed is what asking the app's URL gave.
type probed struct {
	run int
	ok  bool
	why string
}

func (a *App) tellProbe(ctx context.Context, p probed) {
	select {
	case a.probes <- p:
	case <-a.over:
	case <-ctx.Done():
	}
}

// probed: the app's URL has been asked.
func (a *App) probed(p probed) {
	if a.state != StateRunning || p.run != a.run.n {
		return
	}
	if p.ok {
		a.ready.stop()
		a.becameReady()
		return
	}
	a.unready(p.why)
	a.ready.set(min(max(2*a.ready.last, probeFirst), probeLast))
}

func (a *App) becameReady() {
	if a.snap.Ready {
		return
	}
	a.snap.Ready, a.snap.NotReady = true, ""
	a.feedWatchdog()
	a.publish() // who hears of it finds it in the snapshot
	a.emit(Event{Kind: Ready, PID: a.snap.PID, Uptime: time.Since(a.run.started)})
}

// unready: the app is not ready, or no more.
func (a *App) unready(why string) {
	was := a.snap.Ready
	a.snap.Ready, a.snap.NotReady = false, why
	if was && a.state == StateRunning && a.run.process != nil {
		a.emit(Event{Kind: Unready, PID: a.snap.PID, Text: why})
	}
}

// CheckReady tells whether the app is ready and, if not, why. An app whose URL
// tells is asked, which takes a second at the most; in the other cases what is
// known is given at once.
func (a *App) CheckReady(ctx context.Context) (ok bool, why string) {
	v := a.snapshot.Load()
	s := v.snap
	if a.opts.Ready.By != ReadyURL || s.State != StateRunning {
		return s.Ready, s.NotReady
	}
	ok, why, err := a.prober.get(ctx)
	// Who stops waiting has not learned anything of the app.
	if err == nil && ok != s.Ready {
		a.tellProbe(ctx, probed{v.run, ok, why})
		_ = a.Ping(ctx) // the next snapshot shows it
	}
	return ok, why
}

// prober asks the app's URL, once for all who want to know at the same time.
type prober struct {
	url    string
	mu     sync.Mutex
	asking *asking
}

type asking struct {
	done chan struct{}
	ok   bool
	why  string
}

// get asks, or waits for an answer that is on its way. The error is that of a
// context that ended before.
func (p *prober) get(ctx context.Context) (ok bool, why string, err error) {
	p.mu.Lock()
	q := p.asking
	if q == nil {
		q = &asking{done: make(chan struct{})}
		p.asking = q
		go func() {
			q.ok, q.why = ask(p.url)
			p.mu.Lock()
			p.asking = nil
			p.mu.Unlock()
			close(q.done)
		}()
	}
	p.mu.Unlock()
	select {
	case <-q.done:
		return q.ok, q.why, nil
	case <-ctx.Done():
		return false, p.url + " has not answered in time", ctx.Err()
	}
}

// ask does one GET; 2xx and 3xx mean ready, as they do for a kubelet's probe.
func ask(url string) (ok bool, why string) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err.Error()
	}
	req.Header.Set("User-Agent", "evermore")
	client := http.Client{
		// No proxy: it is the app itself that is asked.
		Transport:     &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if err != nil {
		return false, err.Error()
	}
	res.Body.Close()
	if res.StatusCode >= 400 {
		return false, fmt.Sprintf("%s answered %s", url, res.Status)
	}
	return true, ""
}

// feedWatchdog gives the run its full time again. As with systemd, the watchdog
// begins to watch when the app is ready, or speaks of it.
func (a *App) feedWatchdog() {
	if a.run.watchdog > 0 && a.notify != nil {
		a.watchdog.set(a.run.watchdog)
		a.run.hungAt = time.Now().Add(a.run.watchdog)
	}
}

// watchdogElapsed: the app has been silent for too long. As systemd does,
// SIGABRT comes first, so that it can leave a trace of where it hangs.
func (a *App) watchdogElapsed() {
	if a.state != StateRunning {
		return
	}
	if time.Since(a.run.hungAt) > watchdogLate && !a.run.hungAt.IsZero() {
		a.feedWatchdog() // it was evermore that stood still: the app has its time again
		return
	}
	a.because, a.fault = ReasonWatchdog, true
	a.endRun(0, syscall.SIGABRT)
}
