package cluster

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// All that an app writes is in kubectl logs, line by line, while evermore writes
// between its lives.
func TestLogs(t *testing.T) {
	const (
		lives = 3
		lines = 5000
		// The runtime keeps a line in pieces of 16 KiB. Where both streams are busy, a
		// line of several pieces is torn by what the other one has, whoever writes it.
		piece = 16<<10 - 100
		long  = 100 << 10
	)
	t.Parallel()
	n := newNamespace(t)
	n.deploy(overlay{
		// A write by console.log to a full pipe waits within node, and is lost with it.
		args: []string{"node", "-e", fmt.Sprintf(`
			const life = fs.readdirSync('/var/lib/evermore').filter((name) => name.startsWith('life')).length;
			fs.writeFileSync('/var/lib/evermore/life' + life, '');
			const line = (fd, kind, i, length) => fs.writeSync(fd, kind + ' ' + life + ' ' + i + ' ' + kind[0].repeat(length) + '.\n');
			if (life < %d) {
				for (let i = 0; i < %d; i++) {
					line(1, 'out', i, i %% 100 ? i %% 100 : %d);
					line(2, 'err', i, i %% 100);
				}
				process.kill(process.pid, 'SIGKILL');
			}
			fs.writeSync(1, 'all is written\n');
			fs.writeSync(2, 'all is written\n');
			require('node:http').createServer((_, response) => {
				for (let i = 0; i < 5; i++) line(1, 'long', i, %d);
				response.end();
			}).listen(3000)`, lives, lines, piece, long)},
		env: map[string]string{"EVERMORE_READY": ""},
	})
	p := n.awaitReady()
	n.awaitLines(p, "all is written\n", 2)
	p.ask(t, "/")
	log := n.awaitLines(p, "long 3 4 ", 1)

	whole := regexp.MustCompile(`^(out|err|long) (\d) (\d+) (o*|e*|l*)\.\n$`)
	next := map[string]int{}
	events, bytes := 0, 0
	for _, line := range log {
		bytes += len(line)
		if len(parse([]string{line})) == 1 {
			events++
			continue
		}
		if line == "all is written\n" {
			continue
		}
		found := whole.FindStringSubmatch(line)
		if found == nil {
			t.Fatalf("a line that nobody wrote: %.300q", line)
		}
		// Each stream has its order.
		stream, i := found[1]+" "+found[2], next[found[1]+" "+found[2]]
		want := i % 100
		switch {
		case found[1] == "long":
			want = long
		case found[1] == "out" && want == 0:
			want = piece
		}
		if found[3] != fmt.Sprint(i) || len(found[4]) != want {
			t.Fatalf("line %s of %q has %d characters; want line %d with %d", found[3], stream, len(found[4]), i, want)
		}
		next[stream]++
	}
	want := map[string]int{"long 3": 5}
	for life := range lives {
		want[fmt.Sprint("out ", life)], want[fmt.Sprint("err ", life)] = lines, lines
	}
	if fmt.Sprint(next) != fmt.Sprint(want) {
		t.Errorf("there are lines %v, want %v", next, want)
	}
	if events < 2*lives {
		t.Errorf("evermore has %d lines in the log", events)
	}
	t.Logf("%d lines of the app, up to %d KiB long, and %d of evermore, %d KiB in all: whole and in order", len(log)-events, long>>10, events, bytes>>10)
}

// awaitLines waits until so many lines of the log begin with the text.
func (n *namespace) awaitLines(p pod, text string, want int) (log []string) {
	n.t.Helper()
	eventually(n.t, fmt.Sprintf("%q is in the log", text), func() error {
		log = n.log(p)
		found := 0
		for _, line := range log {
			if strings.HasPrefix(line, text) {
				found++
			}
		}
		if found != want {
			return fmt.Errorf("%d lines of %d begin so", found, len(log))
		}
		return nil
	})
	return log
}
