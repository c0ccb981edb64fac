package control

import "time"

// State is the answer to GET /v1/state: what is true of a supervisor and its app
// at one moment. It holds no environment.
type State struct {
	App
	HTTP       string `json:"http,omitempty"`
	Version    string `json:"version"`
	Supervisor int    `json:"supervisor"` // the pid of evermore

	State     string     `json:"state"` // see the label of evermore_child_state
	PID       int        `json:"pid,omitempty"`
	StartedAt *time.Time `json:"started_at,omitempty"` // absent while the app is down
	// LastPID and LastStartedAt are those of the last run.
	LastPID       int       `json:"last_pid,omitempty"`
	LastStartedAt time.Time `json:"last_started_at,omitzero"`
	Ready         bool      `json:"ready"`
	NotReady      string    `json:"not_ready,omitempty"`
	Restarts      int       `json:"restarts"`
	Spinning      bool      `json:"spinning"`
	BackoffMS     int64     `json:"backoff_ms,omitempty"`
	// RestartsRemaining is absent without a limit.
	RestartsRemaining *int      `json:"restarts_remaining,omitempty"`
	LastExit          *LastExit `json:"last_exit,omitempty"`
	// Workers are the processes that serve, by their numbers: one, or with -i
	// several. What stands above is then that of the first one that is ready, or of
	// the first one; of restarts, the sum.
	Workers []Worker `json:"workers"`
	// KillTimeoutMS is how long a stop may take before SIGKILL, a drain included;
	// 0: for ever.
	KillTimeoutMS int64 `json:"kill_timeout_ms"`
	// ReadyTimeoutMS is how long a reload waits for each new process to be ready;
	// absent where it ends the old one first and does not wait.
	ReadyTimeoutMS int64 `json:"ready_timeout_ms,omitempty"`
}

// Worker is one of the processes of an app.
type Worker struct {
	Worker    int        `json:"worker"` // its number, from 0 on
	State     string     `json:"state"`
	PID       int        `json:"pid,omitempty"`
	StartedAt *time.Time `json:"started_at,omitempty"` // absent while it is down
	Ready     bool       `json:"ready"`
	NotReady  string     `json:"not_ready,omitempty"`
	Restarts  int        `json:"restarts"`
}

// LastExit is how the last run ended.
type LastExit struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	Code   *int      `json:"code"` // 128+n for signal n; null: unknown
	Signal string    `json:"signal,omitempty"`
}

// StopRequest is the body of POST /v1/stop.
type StopRequest struct {
	// Signal is what the app is sent in place of --kill-signal.
	Signal string `json:"signal,omitempty"`
}

// StopAnswer is the answer to POST /v1/stop, once nothing of the app is left.
type StopAnswer struct {
	Code int `json:"code"` // the supervisor's exit code
}

// RestartAnswer is the answer to POST /v1/restart, once the app runs again.
type RestartAnswer struct {
	PID int `json:"pid"`
}

// ReloadAnswer is the answer to POST /v1/reload, once all processes are new.
type ReloadAnswer struct {
	Workers []Worker `json:"workers"`
}

// ScaleRequest is the body of POST /v1/scale.
type ScaleRequest struct {
	Instances int `json:"instances"`
}

// SignalRequest is the body of POST /v1/signal.
type SignalRequest struct {
	Signal string `json:"signal"`
}

// Failure is the body of every answer that is no success.
type Failure struct {
	Error string `json:"error"`
}
