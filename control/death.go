package control

import "time"

// Death is one end of a run of the app, as the ledger keeps it. What is not known
// is absent.
type Death struct {
	// At is when the end was seen. That of a run which evermore did not survive is
	// seen when the app's next supervisor begins.
	At time.Time `json:"at"`
	// UptimeMS is how long the run lasted, of a lost one: at the most.
	UptimeMS int64   `json:"uptime_ms"`
	Reason   string  `json:"reason"` // see the label of evermore_child_exits_total
	PID      int     `json:"pid,omitempty"`
	Code     *int    `json:"code"` // 128+n for signal n; null: unknown
	Signal   string  `json:"signal,omitempty"`
	Sender   *Sender `json:"sender,omitempty"`
	// PeakBytes is the most resident memory that the process had.
	PeakBytes int64 `json:"peak_bytes,omitempty"`
	// MemoryBytes and MemoryLimitBytes are those of the control group, when the
	// process was gone.
	MemoryBytes      int64       `json:"memory_bytes,omitempty"`
	MemoryLimitBytes int64       `json:"memory_limit_bytes,omitempty"`
	Throttling       *Throttling `json:"throttling,omitempty"` // of the control group, during the run
	Report           *Report     `json:"report,omitempty"`
}

// Sender is who sent the signal that ended a run, or that asked it to end.
type Sender struct {
	// By is kernel, terminal, process, outside (of the pid namespace) or evermore.
	By  string `json:"by"`
	PID int    `json:"pid,omitempty"` // of a process
	UID *int   `json:"uid,omitempty"`
}

// Throttling is how often a control group used up its share of the processors.
type Throttling struct {
	Periods   uint64 `json:"periods"`
	Throttled uint64 `json:"throttled"` // of the periods
	MS        int64  `json:"throttled_ms"`
}

// Report is what node's diagnostic report says.
type Report struct {
	Event          string `json:"event,omitempty"`
	Trigger        string `json:"trigger,omitempty"`
	Message        string `json:"message,omitempty"` // the first line
	HeapUsedBytes  int64  `json:"heap_used_bytes,omitempty"`
	HeapLimitBytes int64  `json:"heap_limit_bytes,omitempty"`
}

// Deaths is the answer to GET /v1/deaths.
type Deaths struct {
	UID    string  `json:"uid,omitempty"`
	Deaths []Death `json:"deaths"` // newest first
	Counts Counts  `json:"counts"`
}

// Counts are what has been counted of an app since its ledger was begun.
type Counts struct {
	Since    time.Time                 `json:"since"`
	Starts   int                       `json:"starts"`
	Restarts map[string]int            `json:"restarts"` // by reason
	Exits    map[string]map[string]int `json:"exits"`    // by reason and code
	OOMKills int                       `json:"oom_kills"`
	// StopKills is how often the app was sent SIGKILL because it had not ended.
	StopKills int `json:"stop_kills"`
}

func newCounts(since time.Time) Counts {
	return Counts{Since: since, Restarts: map[string]int{}, Exits: map[string]map[string]int{}}
}

func (c *Counts) exit(reason, code string) {
	if c.Exits[reason] == nil {
		c.Exits[reason] = map[string]int{}
	}
	c.Exits[reason][code]++
}

// valid tells whether they can be counts: none is less than 0.
func (c *Counts) valid() bool {
	least := min(c.Starts, c.OOMKills, c.StopKills)
	for _, n := range c.Restarts {
		least = min(least, n)
	}
	for _, codes := range c.Exits {
		for _, n := range codes {
			least = min(least, n)
		}
	}
	return least >= 0
}

// add adds what was counted before.
func (c *Counts) add(before Counts) {
	if !before.Since.IsZero() && before.Since.Before(c.Since) {
		c.Since = before.Since
	}
	c.Starts += before.Starts
	c.OOMKills += before.OOMKills
	c.StopKills += before.StopKills
	for reason, n := range before.Restarts {
		c.Restarts[reason] += n
	}
	for reason, codes := range before.Exits {
		for code, n := range codes {
			if c.Exits[reason] == nil {
				c.Exits[reason] = map[string]int{}
			}
			c.Exits[reason][code] += n
		}
	}
}
