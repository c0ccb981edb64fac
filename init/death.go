package pid1

import (
	"syscall"
	"time"

	"evermore/reaper"
	"evermore/signals"
)

// Death is what is known of the end of a run beside its exit.
type Death struct {
	// Usage is what the control group used when the process was gone; its
	// Throttling is that during the run.
	Usage
	// Sender is who sent the signal that ended the run, or that asked it to end.
	Sender Sender
	Report *Report // nil: the app has left none
}

// Sender is who sent a signal. The zero value: it is not known. The kernel tells
// the sender to the process that gets the signal, and to nobody else.
type Sender struct {
	By SenderKind
	// PID and UID are those of a process.
	PID, UID int
}

// SenderKind is what kind of sender there is.
type SenderKind string

const (
	ByKernel   SenderKind = "kernel"
	ByTerminal SenderKind = "terminal"
	ByProcess  SenderKind = "process"  // of this pid namespace
	ByOutside  SenderKind = "outside"  // of this pid namespace: a container runtime, the kubelet
	ByEvermore SenderKind = "evermore" // for a request, a limit, a watch, or since time was up
)

// Report is what the app has left behind about its end.
type Report struct {
	Reason  Reason // ReasonException, ReasonHeap or, where it tells of something else, empty
	Event   string // what happened, and
	Trigger string // what had the report written, in the words of node
	Message string // of the exception, its first line
	// HeapUsed and HeapLimit are of the JavaScript heap, in bytes.
	HeapUsed, HeapLimit int64
}

// explainTime is how long Options.Explain may take before nobody waits for it.
const explainTime = time.Second

// explained is the answer of Options.Explain about a run.
type explained struct {
	run    int
	report *Report
}

// askWhy begins to look for what the app has left behind, where it may have.
func (a *App) askWhy() bool {
	if a.opts.Explain == nil || a.run.asked || a.because != "" || a.run.exit.Status() == 0 {
		return false
	}
	a.run.asked, a.settling = true, true
	n, pid := a.run.n, a.run.exit.PID
	go func() {
		r := explained{n, a.opts.Explain(pid)}
		select {
		case a.answers <- r:
		case <-a.over:
		}
	}()
	a.explain.set(explainTime)
	return true
}

// explained: what the app has left behind is known.
func (a *App) explained(r explained) {
	if a.state == StateClearing && r.run == a.run.n && a.run.asked {
		a.explain.stop()
		a.run.report = r.report
		a.concluded()
	}
}

// explainTimeElapsed: it takes too long.
func (a *App) explainTimeElapsed() {
	if a.state == StateClearing {
		a.concluded()
	}
}

// sentBy takes note of who sent the run a signal.
func (a *App) sentBy(s syscall.Signal, by Sender) {
	if a.run.senders == nil {
		a.run.senders = map[syscall.Signal]Sender{}
	}
	a.run.senders[s] = by
}

// senderOf is who sent a signal that arrived.
func senderOf(r signals.Received, terminal bool) Sender {
	switch {
	case terminal:
		return Sender{By: ByTerminal}
	case r.FromKernel():
		return Sender{By: ByKernel}
	case r.PID == 0:
		return Sender{By: ByOutside}
	}
	return Sender{By: ByProcess, PID: r.PID, UID: r.UID}
}

// death gives what is known of the run that is over.
func (a *App) death(e reaper.Exit, reason Reason) *Death {
	d := &Death{Usage: a.procs.Usage(&a.run.usage), Report: a.run.report}
	if d.Throttles = d.Throttles && a.run.usage.Throttles; d.Throttles {
		d.Throttling = d.Throttling.Since(a.run.usage.Throttling)
	}
	switch asked := a.because != "" || reason == ReasonRequest; {
	case reason == ReasonOOM:
		d.Sender = Sender{By: ByKernel}
	case asked && e.Signal != 0:
		d.Sender = a.run.senders[e.Signal]
	case asked:
		d.Sender = a.run.senders[a.run.told]
	}
	return d
}
