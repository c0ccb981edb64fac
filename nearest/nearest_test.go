package nearest

import "testing"

func TestNearest(t *testing.T) {
	names := []string{"max", "max-restarts", "min-uptime", "minUptime", "kill-tree", "kill-signal", "log-file"}
	for _, c := range []struct{ name, want string }{
		{"max", "max"},
		{"mx", "max"},
		{"min-uptme", "min-uptime"},
		{"min_uptime", "min-uptime"},
		{"minuptime", "min-uptime"}, // the first of equals
		{"kill", "kill-tree"},       // the first of those that begin so
		{"logfil", "log-file"},
		{"kill-sgnl", "kill-signal"},
		{"ma", "max"},
		{"z", ""},
		{"", ""},
		{"frobnicate", ""},
	} {
		if got := Nearest(c.name, names); got != c.want {
			t.Errorf("Nearest(%q) = %q, want %q", c.name, got, c.want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"kitten", "sitting", 3},
		{"flaw", "lawn", 2},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
