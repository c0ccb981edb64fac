package cluster

import (
	"fmt"
	"strings"
	"testing"
)

// What a person does in a pod whose image has no shell, whose user is nobody's and
// whose files are read-only.
func TestExec(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.deploy(overlay{})
	p := n.awaitReady()
	who := n.inside(p, "node", "-p", `const reason = (of) => { try { of(); return 'done' } catch (e) { return e.code } };
		[fs.readlinkSync('/proc/1/exe'), process.getuid(), reason(() => fs.writeFileSync('/x', '')), reason(() => fs.statSync('/bin/sh'))].join(' ')`)
	if who != "/evermore 1000 EROFS ENOENT\n" {
		t.Errorf("PID 1, its user, a write and a shell: %q", who)
	}

	before := p.serving(t, 3000)
	list := n.inside(p, "/evermore", "list")
	t.Logf("evermore list:\n%s", list)
	if !strings.Contains(list, fmt.Sprintf(" %d ", before)) {
		t.Errorf("the list lacks process %d", before)
	}
	t.Logf("evermore restart:\n%s", n.inside(p, "/evermore", "restart"))
	after := p.serving(t, 3000)
	if restarts := p.metric(t, "evermore_child_restarts_total", `reason="request"`); after == before || restarts != 1 {
		t.Errorf("process %d after %d, %v restarts; want another process and one restart", after, before, restarts)
	}
	n.kill(p, 3000, "SIGSEGV")
	why := n.inside(p, "/evermore", "why")
	t.Logf("evermore why:\n%s", why)
	if !strings.Contains(why, "SIGSEGV") {
		t.Error("it does not tell of SIGSEGV")
	}
	t.Logf("evermore health: %s", n.inside(p, "/evermore", "health"))
	if p = n.awaitReady(); p.app().RestartCount != 0 {
		t.Errorf("the container was restarted %d times", p.app().RestartCount)
	}
}
