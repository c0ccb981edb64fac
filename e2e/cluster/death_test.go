package cluster

import (
	"os"
	"strings"
	"testing"
)

// An app that takes more than the container's limit is killed by the kernel, and
// evermore says so. On cgroup v1 it alone is killed; on v2 the kubelet has the
// whole container killed, unless it is told otherwise (singleProcessOOMKill).
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.deploy(overlay{
		args: []string{"node", "-e", `const mark = '/var/lib/evermore/ate';
			if (!fs.existsSync(mark)) {
				fs.writeFileSync(mark, '');
				const eaten = [];
				setInterval(() => eaten.push(Buffer.alloc(16 << 20, 1)), 20);
			}
			require('node:http').createServer((_, response) => response.end('ok')).listen(3000)`},
		container: object{"resources": object{"limits": object{"memory": "160Mi"}}},
	})
	p := n.awaitPod("the app is ready again", func(p pod) bool {
		if !p.is("Ready") {
			return false
		}
		_, killed := first(n.events(p), "exited")
		return killed || p.app().RestartCount > 0
	})
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		if last := p.app().LastState.Terminated; last == nil || last.Reason != "OOMKilled" {
			t.Errorf("the last state is %+v, want OOMKilled", last)
		}
		return
	}
	died, _ := first(n.events(p), "exited")
	kills := p.metric(t, "evermore_oom_kills_total", "")
	t.Logf("reason %q, exit code %d, %v kills counted, container restarts %d: %s", died.Reason, *died.Code, kills, p.app().RestartCount, died.Message)
	if died.Reason != "oom" || kills != 1 || p.app().RestartCount != 0 || !strings.Contains(died.Message, "the limit is 160 MiB") {
		t.Error("want reason oom, one kill, a message that says so, and evermore alive")
	}
	t.Logf("evermore why:\n%s", n.inside(p, "/evermore", "why"))
	if got := p.metric(t, "evermore_child_restarts_total", `reason="oom"`); got != 1 {
		t.Errorf("%v restarts because of it were counted, not 1", got)
	}
}
