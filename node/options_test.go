package node

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestWithOptions(t *testing.T) {
	for _, c := range []struct{ env, options, want []string }{
		{nil, []string{"--a"}, []string{"NODE_OPTIONS=--a"}},
		{[]string{"A=b", "NODE_OPTIONS=", "C=d"}, []string{"--a", "--b=1"}, []string{"A=b", "C=d", "NODE_OPTIONS=--a --b=1"}},
		{[]string{"NODE_OPTIONS=--own --more", "NODE_OPTIONS_X=1"}, []string{"--a"}, []string{"NODE_OPTIONS_X=1", "NODE_OPTIONS=--a --own --more"}},
	} {
		before := slices.Clone(c.env)
		if got := WithOptions(c.env, c.options...); !slices.Equal(got, c.want) {
			t.Errorf("%q with %q: got %q, want %q", c.env, c.options, got, c.want)
		}
		if !slices.Equal(c.env, before) {
			t.Errorf("the environment %q became %q", before, c.env)
		}
	}
}

// What stands later in NODE_OPTIONS wins, and the command line wins over it: a
// user's own choice is never overruled.
func TestUsersOptionsWin(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("node is missing: apt-get install nodejs")
		}
		t.Skip("node is missing")
	}
	const ask = "console.log(Math.floor(require('v8').getHeapStatistics().heap_size_limit / 1048576))"
	heap := func(env []string, args ...string) string {
		c := exec.Command("node", append(args, "-e", ask)...)
		c.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	const own, ours = "--max-old-space-size=700", "--max-old-space-size=300"
	want := heap(nil, own)
	if alone := heap(WithOptions(nil, ours)); alone == want {
		t.Errorf("NODE_OPTIONS changes nothing: the heap has %s MiB", alone)
	}
	if got := heap(WithOptions([]string{"NODE_OPTIONS=--max_old_space_size=700"}, ours)); got != want {
		t.Errorf("the user's NODE_OPTIONS give a heap of %s MiB, not %s", got, want)
	}
	if got := heap(WithOptions(nil, ours), own); got != want {
		t.Errorf("the user's command line gives a heap of %s MiB, not %s", got, want)
	}
}

func TestHeapLimit(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		limit, want int64
		ok          bool
	}{
		{4096 * mib, 3072, true},
		{512 * mib, 384, true},
		{256 * mib, 192, true},
		{128 * mib, 64, true},
		{96 * mib, 32, true},
		{95 * mib, 31, false},
		{16 * mib, -48, false},
		{0, -64, false},
		{1<<62 - 1, 3298534883328, true},
	} {
		if got, ok := HeapLimit(c.limit); got != c.want || ok != c.ok {
			t.Errorf("%d MiB: got %d, %v, want %d, %v", c.limit/mib, got, ok, c.want, c.ok)
		}
	}
}
