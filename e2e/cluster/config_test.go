package cluster

import (
	"fmt"
	"strings"
	"testing"
)

// A ConfigMap's change reaches its volume by the swap of a symlink, which
// evermore sees: the app is restarted, or told, within its container.
func TestConfigMap(t *testing.T) {
	const app = `const read = () => fs.readFileSync('/config/greeting', 'utf8');
		let greeting = read();
		process.on('SIGHUP', () => { greeting = read() });
		require('node:http').createServer((_, response) => response.end('pid ' + process.pid + ', ' + greeting)).listen(3000)`
	for name, env := range map[string]map[string]string{
		"restart": nil,
		"signal":  {"EVERMORE_WATCH_ACTION": "signal:HUP"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNamespace(t)
			n.greet("one")
			n.deploy(overlay{components: []string{"config"}, args: []string{"node", "-e", app}, env: env})
			p := n.awaitReady()
			before := p.serving(t, 3000)
			for i, greeting := range []string{"two", "three"} {
				n.greet(greeting)
				// The kubelet looks at a pod's volumes about once a minute, and when the
				// pod changes.
				n.kubectl("annotate", "pod", p.Metadata.Name, "evermore.test/greeting="+greeting, "--overwrite")
				eventually(t, "the app knows its new configuration", func() error {
					_, body, err := p.http(3000, "/")
					if err == nil && !strings.HasSuffix(body, greeting) {
						err = fmt.Errorf("it says %q", body)
					}
					return err
				})
				after, restarts := p.serving(t, 3000), p.metric(t, "evermore_child_restarts_total", `reason="watch"`)
				if name == "restart" && (after == before || restarts != float64(i+1)) {
					t.Errorf("process %d after %d, restarts because of a watched file: %v, want %d", after, before, restarts, i+1)
				}
				if name == "signal" && (after != before || restarts != 0) {
					t.Errorf("process %d after %d, %v restarts; want the same process", after, before, restarts)
				}
				t.Logf("change %d: process %d, then %d", i+1, before, after)
				before = after
			}
			if p = n.awaitReady(); p.app().RestartCount != 0 {
				t.Errorf("the container was restarted %d times", p.app().RestartCount)
			}
			for _, e := range n.events(p) {
				if strings.Contains(e.Message, "/config") {
					t.Log(e.Message)
				}
			}
		})
	}
}

func (n *namespace) greet(greeting string) {
	n.t.Helper()
	n.apply(object{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": "app"},
		"data": map[string]string{"greeting": greeting},
	})
}
