package cli

import (
	"fmt"
	"math"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	tests := map[string]time.Duration{
		"0": 0, "1": time.Millisecond, "1500": 1500 * time.Millisecond, "007": 7 * time.Millisecond,
		"1.5s": 1500 * time.Millisecond, "1m30s": 90 * time.Second, "100us": 100 * time.Microsecond, "0s": 0, "2h": 2 * time.Hour,
		"9223372036854": 9223372036854 * time.Millisecond,
	}
	for text, want := range tests {
		if got, err := parseTime(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " 1", "1 ", "-1", "-1s", "+1", "1.5", "1e3", "0x10", "1_000", "2x", "s", "1d", "NaN", "inf",
		"9223372036855", "18446744073709551616", "2562048h",
	} {
		if got, err := parseTime(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, text := range []string{"0", "1500", "1.5s", "-1s", "9223372036855", "2x", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseTime(text)
		if err != nil {
			return
		}
		if d < 0 {
			t.Errorf("%q: negative: %v", text, d)
		}
		// What Go writes of it means the same.
		if again, err := parseTime(d.String()); err != nil || again != d {
			t.Errorf("%q: %v, read again %v, %v", text, d, again, err)
		}
		if ms, err := strconv.ParseUint(text, 10, 64); err == nil && (ms > math.MaxInt64 || d.Milliseconds() != int64(ms)) {
			t.Errorf("%q: %v", text, d)
		}
	})
}

func TestParseRuns(t *testing.T) {
	for text, want := range map[string]int{"0": 1, "1": 1, "5": 5, "2147483647": 2147483647} {
		if got, err := parseRuns(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
}

func FuzzParseRemap(f *testing.F) {
	for _, text := range []string{"143=0", "143=0,130=1", "a=b", "=", "256=0", "1=2=3", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		codes, err := parseRemap(text)
		if err != nil {
			return
		}
		if len(codes) == 0 || len(codes) > 1+strings.Count(text, ",") {
			t.Errorf("%q: %v", text, codes)
		}
		for a, b := range codes {
			if a < 0 || a > 255 || b < 0 || b > 255 || !strings.Contains(text, "=") {
				t.Errorf("%q: %v", text, codes)
			}
		}
	})
}

func TestParseHTTP(t *testing.T) {
	tests := map[string]string{
		"off": "", "9797": ":9797", ":9797": ":9797", "127.0.0.1:9797": "127.0.0.1:9797", "127.0.0.1:0": "127.0.0.1:0", "0": ":0",
		"[::1]:80": "[::1]:80", "[::]:80": "[::]:80", "localhost:1": "localhost:1", "65535": ":65535", "[fe80::1%eth0]:1": "[fe80::1%eth0]:1",
	}
	for text, want := range tests {
		if got, err := parseHTTP(text); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", ":", "on", "OFF", "65536", ":http", "127.0.0.1", "127.0.0.1:", "::1:80", "[::1]", "http://x:1",
		"a b:1", "user@host:1", "1:2:3", ":-1", ":+1", ":01", "host:1/metrics",
	} {
		if got, err := parseHTTP(text); err == nil {
			t.Errorf("%q: got %q, want an error", text, got)
		} else if !strings.Contains(err.Error(), fmt.Sprintf("%q", text)) {
			t.Errorf("%q: %v does not say it", text, err)
		}
	}
}

func FuzzParseHTTP(f *testing.F) {
	for _, text := range []string{"off", "9797", ":9797", "127.0.0.1:0", "[::1]:80", "[fe80::1%eth0]:1", "a b:1", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		address, err := parseHTTP(text)
		if err != nil || address == "" {
			return
		}
		_, port, err := net.SplitHostPort(address)
		if n, errPort := strconv.Atoi(port); err != nil || errPort != nil || n < 0 || n > 65535 {
			t.Errorf("%q: %q", text, address)
		}
		if again, err := parseHTTP(address); err != nil || again != address {
			t.Errorf("%q: %q, read again %q, %v", text, address, again, err)
		}
	})
}

// commands that a shell and splitWords must read alike.
var commandLines = []string{
	`node`, `node a b`, `  node	a  `, `node 'a b'`, `node "a b"`, `node a\ b`, `node ''`, `node "" x`, `node a'b'"c"`, `node 'a"b'`, `node "a'b"`,
	`node "a\"b"`, `node "a\\b"`, `node "a\b"`, `node 'a\b'`, `node a\\b`, `node "\x"`, `node \'`, `node \"a`, `node é ü`, "node 'a\nb'",
}

func TestSplitWords(t *testing.T) {
	for _, text := range commandLines {
		got, err := splitWords(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		out, err := exec.Command("/bin/sh", "-c", `printf '%s\0' `+text).Output()
		if err != nil {
			missing(t, "/bin/sh", err)
		}
		want := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %q, a shell has %q", text, got, want)
		}
	}
	for _, text := range []string{"", "  ", `''`, `"a`, `'a`, `a\`, `"a\`} {
		if got, err := splitWords(text); err == nil {
			t.Errorf("%q: got %q, want an error", text, got)
		}
	}
}

func FuzzSplitWords(f *testing.F) {
	for _, text := range commandLines {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := splitWords(text)
		if err != nil {
			return
		}
		// Quoted, each word is itself.
		var quoted []string
		for _, w := range list {
			quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
		}
		if again, err := splitWords(strings.Join(quoted, " ")); err != nil || !slices.Equal(again, list) {
			t.Errorf("%q: %q, read again %q, %v", text, list, again, err)
		}
	})
}

func TestParseCommand(t *testing.T) {
	for _, text := range []string{"npm run build", `node -e "a b"`, "./migrate --to 3", "/bin/test -f x", "env A=1 node"} {
		if got, err := parseCommand(text); err != nil || got[0] == "/bin/sh" {
			t.Errorf("%q: got %q, %v; want it without a shell", text, got, err)
		}
	}
	for _, text := range []string{
		"a && b", "a; b", "a | b", "echo $HOME", "ls *.js", "cd x", "exit 3", ". ./env", "A=1 node", "a >b", "a `b`",
		"(a)", "! a", "~/x", "a # b", "a\nb", "test -f x", "a 'b;c'",
	} {
		if got, err := parseCommand(text); err != nil || !slices.Equal(got, []string{"/bin/sh", "-c", text}) {
			t.Errorf("%q: got %q, %v; want a shell", text, got, err)
		}
	}
}
