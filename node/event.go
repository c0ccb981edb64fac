package node

import "time"

// Event is what a process of the app tells: one of the types below that embed
// From.
type Event interface{ Source() From }

// From says who tells.
type From struct {
	// Main is the process that evermore started, by Options.Owner.
	Main int
	// PID is the process that tells: Main or one below it.
	PID int
	// Thread is 0 for the main thread, else node's number of a worker thread.
	Thread int
}

// Source is who tells.
func (f From) Source() From { return f }

// Listening says that a server listens. Ports that the app lets the kernel choose
// are not told.
type Listening struct {
	From
	// Address is the held one, else what the app asked for and bound by itself.
	Address Address
	Held    bool
}

// Closed says that a server listens no more.
type Closed struct {
	From
	Address Address
	Held    bool
}

// Released says that a held address was given up, for the app to bind by itself.
type Released struct {
	From
	Address Address
	// Why is a clause, fit to follow a colon.
	Why string
}

// Pong is the answer to a Ping.
type Pong struct {
	From
	After time.Duration
}

// Drained says that everything has answered that was told to drain: no process of
// Main has a connection left on a held address, except upgraded ones. It tells so
// once for each Drain.
type Drained struct{ From }

// AppReady is pm2's process.send('ready').
type AppReady struct{ From }

// Unheard says that the app has no listener for the message of Shutdown.
type Unheard struct{ From }

// Gone says that a process or thread speaks no more: it has ended, or broke the
// rules of the link; then Why says which.
type Gone struct {
	From
	Why string
}

// Refused says that a process was refused that is not the app's, or one
// connection too many. It is told once a second at most.
type Refused struct {
	PID int
	Why string
}

// Source has no Main.
func (r Refused) Source() From { return From{PID: r.PID} }
