package signals

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSet(t *testing.T) {
	set := SetOf(unix.SIGTERM, unix.SIGINT, 64, 1)
	for _, s := range All() {
		want := s == unix.SIGTERM || s == unix.SIGINT || s == 64 || s == 1
		if set.Has(s) != want {
			t.Errorf("Has(%s) = %t", Name(s), !want)
		}
	}
	if got, want := set.Signals(), []syscall.Signal{1, unix.SIGINT, unix.SIGTERM, 64}; !slices.Equal(got, want) {
		t.Errorf("Signals() = %v, want %v", got, want)
	}
	if got, want := set.String(), "SIGHUP,SIGINT,SIGTERM,SIGRTMAX"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	if got := SetOf(1).With(64); got != 1<<63|1 {
		t.Errorf("SetOf(1).With(64) = %#x: bit n-1 must be signal n", uint64(got))
	}
	for _, s := range []syscall.Signal{-1, 0, 65} {
		if got := Set(0).With(s); got != 0 || got.Has(s) {
			t.Errorf("With(%d) = %#x", int(s), uint64(got))
		}
	}
	if s := Set(0).String(); s != "" {
		t.Errorf("the empty set is %q", s)
	}
	if got, want := SetOf(All()...), ^Set(0); got != want {
		t.Errorf("the set of all = %#x", uint64(got))
	}
}

func TestParseSet(t *testing.T) {
	for in, want := range map[string]Set{
		"TERM":                     SetOf(unix.SIGTERM),
		"TERM,INT":                 SetOf(unix.SIGTERM, unix.SIGINT),
		"sigterm, 2 ,TERM,RTMIN+1": SetOf(unix.SIGTERM, unix.SIGINT, 35),
	} {
		if got, err := ParseSet(in); got != want || err != nil {
			t.Errorf("ParseSet(%q) = %s, %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"":          "no signal given: use a list such as TERM,INT",
		"TERM,":     `unknown signal ""`,
		"TERM INT":  `unknown signal "TERM INT"`,
		"TERM,NOPE": `unknown signal "NOPE"`,
	} {
		if got, err := ParseSet(in); got != 0 || err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("ParseSet(%q) = %s, %v, want %s", in, got, err, want)
		}
	}
}

func FuzzParseSet(f *testing.F) {
	for _, s := range []string{"TERM,INT", "1,2,3", "", ",", " TERM ", "RTMIN+1,RTMAX", "TERM,,INT"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		set, err := ParseSet(in)
		if err != nil {
			if set != 0 {
				t.Errorf("ParseSet(%q) = %s and an error", in, set)
			}
			return
		}
		if back, err := ParseSet(set.String()); back != set || err != nil {
			t.Errorf("ParseSet(%q) = %s, read back as %s, %v", in, set, back, err)
		}
	})
}
