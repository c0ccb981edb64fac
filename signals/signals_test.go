package signals

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	tests := []struct {
		in   string
		want syscall.Signal
	}{
		{"TERM", unix.SIGTERM},
		{"SIGTERM", unix.SIGTERM},
		{"sigterm", unix.SIGTERM},
		{"Term", unix.SIGTERM},
		{"15", 15},
		{"1", 1},
		{"64", 64},
		{"015", 15},
		{"32", 32},
		{"KILL", unix.SIGKILL},
		{"WINCH", unix.SIGWINCH},
		{"SYS", unix.SIGSYS},
		{"CLD", unix.SIGCHLD},
		{"SIGPOLL", unix.SIGIO},
		{"IO", unix.SIGIO},
		{"iot", unix.SIGABRT},
		{"UNUSED", unix.SIGSYS},
		{"RTMIN", 34},
		{"SIGRTMIN+0", 34},
		{"RTMIN+3", 37},
		{"RTMIN+30", 64},
		{"RTMAX", 64},
		{"SIGRTMAX-1", 63},
		{"rtmax-30", 34},
	}
	for _, tt := range tests {
		if got, err := Parse(tt.in); got != tt.want || err != nil {
			t.Errorf("Parse(%q) = %d, %v, want %d", tt.in, got, err, tt.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", "0", "65", "-1", "+15", "1.5", "0x0f", "256", "18446744073709551617", " TERM", "TERM ", "SIG", "SIGSIGTERM", "TERMINATE", "SIG15",
		"RTMIN-1", "RTMIN+31", "RTMIN+", "RTMIN+-1", "RTMIN3", "RTMAX+1", "RTMAX-31", "RTMAX-", "TERM,INT",
	} {
		got, err := Parse(in)
		if err == nil {
			t.Errorf("Parse(%q) = %d, want an error", in, got)
			continue
		}
		want := "unknown signal " + strconv.Quote(in) + ": use a name such as TERM or RTMIN+1, or a number from 1 to 64"
		if got != 0 || err.Error() != want {
			t.Errorf("Parse(%q) = %d, %q, want 0, %q", in, got, err, want)
		}
	}
}

func TestName(t *testing.T) {
	for s, want := range map[syscall.Signal]string{
		unix.SIGTERM: "SIGTERM", unix.SIGABRT: "SIGABRT", unix.SIGIO: "SIGIO", unix.SIGCHLD: "SIGCHLD",
		32: "32", 33: "33", 34: "SIGRTMIN", 40: "SIGRTMIN+6", 49: "SIGRTMIN+15", 50: "SIGRTMAX-14", 63: "SIGRTMAX-1", 64: "SIGRTMAX",
		0: "0", 65: "65", -1: "-1",
	} {
		if got := Name(s); got != want {
			t.Errorf("Name(%d) = %q, want %q", int(s), got, want)
		}
	}
	for _, s := range All() {
		if back, err := Parse(Name(s)); back != s || err != nil {
			t.Errorf("Parse(%q) = %d, %v, want %d", Name(s), back, err, s)
		}
	}
}

// The names are those that "kill -l" of bash gives.
func TestNameIsThatOfKill(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		missing(t, "bash is not installed")
	}
	for _, s := range All() {
		if s == 32 || s == 33 {
			continue // bash has no name for them
		}
		out, err := exec.Command(bash, "-c", "kill -l "+strconv.Itoa(int(s))).Output()
		if err != nil {
			t.Fatalf("kill -l %d: %v", s, err)
		}
		if want := "SIG" + strings.TrimSpace(string(out)); Name(s) != want && runsOnLinux {
			t.Errorf("Name(%d) = %q, want %q", s, Name(s), want)
		}
	}
}

func TestForwardable(t *testing.T) {
	not := SetOf(unix.SIGCHLD, unix.SIGURG, unix.SIGKILL, unix.SIGSTOP, 32, 33, 34,
		unix.SIGFPE, unix.SIGILL, unix.SIGSEGV, unix.SIGBUS, unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS)
	if n := len(All()); n != 64 {
		t.Errorf("there are %d signals, want 64", n)
	}
	for _, s := range All() {
		if Forwardable(s) == not.Has(s) {
			t.Errorf("Forwardable(%s) = %t", Name(s), Forwardable(s))
		}
		if (WhyNot(s) == "") != Forwardable(s) {
			t.Errorf("WhyNot(%s) = %q, but Forwardable is %t", Name(s), WhyNot(s), Forwardable(s))
		}
	}
	for _, s := range []syscall.Signal{-1, 0, 65} {
		if Forwardable(s) {
			t.Errorf("Forwardable(%d) = true", int(s))
		}
	}
}

func TestParseRewrite(t *testing.T) {
	tests := []struct {
		in       string
		from, to syscall.Signal
	}{
		{"TERM=INT", unix.SIGTERM, unix.SIGINT},
		{"sigterm=2", unix.SIGTERM, unix.SIGINT},
		{"HUP=0", unix.SIGHUP, 0},
		{"TERM=KILL", unix.SIGTERM, unix.SIGKILL},
		{"TSTP=STOP", unix.SIGTSTP, unix.SIGSTOP},
		{"QUIT=ABRT", unix.SIGQUIT, unix.SIGABRT},
		{"PROF=RTMIN", unix.SIGPROF, 34},
		{"RTMIN+1=RTMAX", 35, 64},
		{"USR1=USR1", unix.SIGUSR1, unix.SIGUSR1},
	}
	for _, tt := range tests {
		if from, to, err := ParseRewrite(tt.in); from != tt.from || to != tt.to || err != nil {
			t.Errorf("ParseRewrite(%q) = %d, %d, %v, want %d, %d", tt.in, from, to, err, tt.from, tt.to)
		}
	}
	for in, want := range map[string]string{
		"":           `cannot read "" as a rewriting: use FROM=TO such as TERM=INT, or FROM=0 to drop the signal`,
		"TERM":       `cannot read "TERM" as a rewriting: use FROM=TO such as TERM=INT, or FROM=0 to drop the signal`,
		"TERM:INT":   `cannot read "TERM:INT" as a rewriting: use FROM=TO such as TERM=INT, or FROM=0 to drop the signal`,
		"NOPE=INT":   `cannot rewrite "NOPE=INT": unknown signal "NOPE"`,
		"TERM=":      `cannot rewrite "TERM=": unknown signal ""`,
		"TERM=INT=2": `cannot rewrite "TERM=INT=2": unknown signal "INT=2"`,
		"0=TERM":     `cannot rewrite "0=TERM": unknown signal "0"`,
		"CHLD=TERM":  `cannot rewrite "CHLD=TERM": SIGCHLD is never forwarded, it is about evermore's own children`,
		"KILL=TERM":  `cannot rewrite "KILL=TERM": SIGKILL is never forwarded, no process can catch it`,
		"SEGV=0":     `cannot rewrite "SEGV=0": SIGSEGV is never forwarded, it is about a fault of the process that receives it`,
		"TERM=32":    `cannot rewrite "TERM=32": signal 32 is the C library's own, use another`,
	} {
		if from, to, err := ParseRewrite(in); err == nil || from != 0 || to != 0 || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("ParseRewrite(%q) = %d, %d, %v, want 0, 0, %s", in, from, to, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"TERM", "SIGTERM", "15", "RTMIN+3", "SIGRTMAX-1", "CLD", "", "0", "64", "RTMIN+99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := Parse(in)
		if err != nil {
			if s != 0 {
				t.Errorf("Parse(%q) = %d and an error", in, s)
			}
			return
		}
		if s < 1 || s > 64 {
			t.Errorf("Parse(%q) = %d", in, s)
		}
		if back, err := Parse(Name(s)); back != s || err != nil {
			t.Errorf("Parse(%q) = %d, which is called %s and read back as %d, %v", in, s, Name(s), back, err)
		}
	})
}

func FuzzParseRewrite(f *testing.F) {
	for _, s := range []string{"TERM=INT", "HUP=0", "15=9", "CHLD=TERM", "=", "TERM=INT=QUIT", "RTMIN+1=RTMAX-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		from, to, err := ParseRewrite(in)
		if err != nil {
			if from != 0 || to != 0 {
				t.Errorf("ParseRewrite(%q) = %d, %d and an error", in, from, to)
			}
			return
		}
		if !Forwardable(from) || to < 0 || to > 64 {
			t.Errorf("ParseRewrite(%q) = %d, %d", in, from, to)
		}
		var o Options
		o.Direct[from] = uint8(to)
		if err := o.validate(); err != nil {
			t.Errorf("ParseRewrite(%q) = %d, %d, which Catch refuses: %v", in, from, to, err)
		}
	})
}
