package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"evermore/control"
)

// healthTable is the options of evermore health.
var healthTable = []option{
	{
		name: "http", arg: "ADDRESS",
		help:     "where to ask; else what the running evermore has recorded, else 127.0.0.1:9797",
		set:      func(s *settings, v string) (err error) { s.http, err = parseHTTP(v); return },
		complete: words("127.0.0.1:9797"),
	},
	{
		name: "live", flagOnly: true,
		help: "ask /livez: does evermore itself work?",
		on:   func(s *settings) *bool { return &s.asked.live },
	},
	{
		name: "ready", flagOnly: true,
		help: "ask /readyz: does the app work? This is the default",
		on:   func(s *settings) *bool { return &s.asked.ready },
	},
	{
		name: "timeout", arg: "TIME", flagOnly: true,
		help:     "how long to wait for an answer",
		set:      setTime(func(s *settings) *time.Duration { return &s.asked.timeout }),
		defaults: both("3s"),
	},
	{
		name: "help", short: "h", flagOnly: true,
		help: "show this",
		on:   func(s *settings) *bool { return &s.help },
	},
}

// healthCommand asks a running evermore how it is, and exits with 0 or 1: the
// HEALTHCHECK of an image without a shell.
func (s *settings) healthCommand(getenv func(string) string, code *int) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a running evermore: exit code 0 or 1",
		Args:  cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, rest []string) error {
			if len(rest) > 0 {
				return usage("health takes no argument: %q", rest[0])
			}
			if s.asked.live && s.asked.ready {
				return usage("--live and --ready ask for two things: choose one")
			}
			if err := s.complete(healthTable, variables(getenv)); err != nil {
				return err
			}
			answer, err := s.health()
			if err != nil {
				return err
			}
			return s.print(answer + "\n")
		},
	}
	s.flags(cmd.Flags(), healthTable)
	s.offer(cmd, healthTable)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err, healthTable) })
	cmd.SetHelpFunc(func(*cobra.Command, []string) { s.print(s.healthHelp()) })
	return cmd
}

// health gives the answer of a healthy evermore in one line; else an error.
func (s *settings) health() (string, error) {
	addresses, err := s.healthAddresses()
	if err != nil {
		return "", err
	}
	path, what := "/readyz", "ready"
	if s.asked.live {
		path, what = "/livez", "live"
	}
	deadline := time.Now().Add(s.asked.timeout)
	var status int
	var text string
	for _, address := range addresses {
		if status, text, err = get(address, path, deadline); err == nil {
			break
		}
	}
	switch {
	case err != nil:
		return "", err
	case status == http.StatusOK:
		return what, nil
	case status == http.StatusServiceUnavailable && text != "":
		return "", fmt.Errorf("not %s: %s", what, strings.TrimPrefix(text, what+" failed: "))
	}
	return "", fmt.Errorf("%s answered %s with %d: is this evermore?", addresses[0], path, status)
}

// healthAddresses are the addresses to ask, in this order.
func (s *settings) healthAddresses() ([]string, error) {
	address := s.http
	if s.isGiven("http") && address == "" {
		return nil, fmt.Errorf("%s is off: there is nothing to ask", s.given["http"])
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		// Not given, or any free port: the supervisor knows which.
		running, err := control.List()
		if err != nil {
			return nil, err
		}
		if address, err = chooseAddress(running); err != nil {
			return nil, err
		}
		if host, port, err = net.SplitHostPort(address); err != nil {
			return nil, err
		}
	}
	// A wildcard is an address to listen on, not one to connect to.
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return []string{net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)}, nil
	}
	return []string{address}, nil
}

// chooseAddress is the address of the supervisor that runs: PID 1, or the only
// one. Where none has left a record, as in a container where nothing can be
// written, it is the one that -- COMMAND listens on by default.
func chooseAddress(entries []control.Entry) (string, error) {
	var running []control.Entry
	for _, e := range entries {
		if e.Status == control.Running {
			running = append(running, e)
		}
	}
	if len(running) == 0 {
		return "127.0.0.1:9797", nil
	}
	chosen := running[0]
	for _, r := range running {
		if r.PID == 1 {
			chosen = r
		}
	}
	if len(running) > 1 && chosen.PID != 1 {
		return "", fmt.Errorf("%d supervisors are running: name the address of one with --http", len(running))
	}
	if chosen.HTTP == "" {
		return "", fmt.Errorf("the supervisor with pid %d does not listen: it was told --http off, or its address was taken", chosen.PID)
	}
	return chosen.HTTP, nil
}

// get asks one address and gives the status and the first line of the answer. It
// does without http.Client, which logs what it finds odd, and would ask a proxy.
func get(address, path string, deadline time.Time) (status int, text string, err error) {
	failed := func(err error) (int, string, error) {
		if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
			err = errors.New("no answer in time")
		}
		return 0, "", fmt.Errorf("cannot ask %s: %w", address, cause(err))
	}
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.Dial("tcp", address)
	if err != nil {
		return failed(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return failed(err)
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", path, address); err != nil {
		return failed(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return failed(err)
	}
	defer response.Body.Close()
	line, err := bufio.NewReader(io.LimitReader(response.Body, 4096)).ReadString('\n')
	if err != nil && err != io.EOF {
		return failed(err)
	}
	return response.StatusCode, printable(line), nil
}

// printable drops what would move the cursor of a terminal.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.TrimSpace(line))
}

// cause is what is at the bottom of a network error, whose address was told.
func cause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
