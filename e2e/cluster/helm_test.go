package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const chart = "../../deploy/helm/evermore"

// TestHelm lets the chart through the life of a release.
func TestHelm(t *testing.T) {
	n := newNamespace(t)
	local := func(target string) object {
		return object{"repository": image, "tag": target, "pullPolicy": "Never"}
	}
	values := func(options object) string {
		text, err := json.Marshal(object{
			"image": local("plain"), "inject": object{"image": local("evermore")},
			"command": []string{"node", "server.js"}, "options": options, "minReadySeconds": 0,
		})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "values.json")
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ready := "http://127.0.0.1:3000/health"
	first := values(object{"ready": ready, "drain-wait": "1s"})

	n.helm("install", "shop", chart, "--values", first, "--wait", "--timeout", patience.String())
	n.awaitTimeouts("20s", "20s")
	n.helm("test", "shop")

	n.helm("upgrade", "shop", chart, "--values", values(object{"ready": ready, "drain-wait": "1s", "kill-timeout": "5s"}), "--wait", "--timeout", patience.String())
	n.awaitTimeouts("5s", "5s")

	// A release that never gets ready does not take the place of one that is.
	sick := values(object{"ready": "http://127.0.0.1:3999/", "drain-wait": "1s", "kill-timeout": "6s"})
	if out, err := n.tryHelm("upgrade", "shop", chart, "--values", sick, "--wait", "--timeout", "10s"); err == nil {
		t.Errorf("helm waited for pods that are never ready, and succeeded:\n%s", out)
	}
	n.helm("test", "shop")
	n.helm("rollback", "shop", "1", "--wait", "--timeout", patience.String())
	n.awaitTimeouts("20s", "20s")

	// The test is one that can fail.
	n.kubectl("scale", "deployment/shop", "--replicas", "0")
	n.kubectl("wait", "--for", "delete", "pod", "--selector", "app.kubernetes.io/name=shop", "--timeout", patience.String())
	if out, err := n.tryHelm("test", "shop"); err == nil {
		t.Errorf("helm test found an app that does not run:\n%s", out)
	}

	n.helm("uninstall", "shop", "--wait", "--timeout", patience.String())
	if left := n.kubectl("get", "deployment,service,poddisruptionbudget", "--output", "name"); left != "" {
		t.Errorf("helm uninstall left %s", left)
	}
}

// awaitTimeouts waits until the pods that are not on their way out have those kill
// time-outs: a rollout is over for Helm when the new ones are ready.
func (n *namespace) awaitTimeouts(want ...string) {
	n.t.Helper()
	eventually(n.t, "pods of the release", func() error {
		if got := n.timeouts(); !slices.Equal(got, want) {
			return fmt.Errorf("they have the kill time-outs %q, not %q", got, want)
		}
		return nil
	})
}

func (n *namespace) timeouts() (found []string) {
	n.t.Helper()
	var pods struct {
		Items []struct {
			Metadata struct{ DeletionTimestamp string }
			Spec     struct {
				Containers []struct {
					Env []struct{ Name, Value string }
				}
			}
		}
	}
	n.decode(&pods, "get", "pods", "--selector", "app.kubernetes.io/name=shop")
	for _, p := range pods.Items {
		for _, e := range p.Spec.Containers[0].Env {
			if p.Metadata.DeletionTimestamp == "" && e.Name == "EVERMORE_KILL_TIMEOUT" {
				found = append(found, e.Value)
			}
		}
	}
	return found
}

func (n *namespace) helm(args ...string) {
	n.t.Helper()
	if out, err := n.tryHelm(args...); err != nil {
		n.t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// tryHelm gives what helm writes. Where it is missing the test is skipped, and
// fails with CI=true.
func (n *namespace) tryHelm(args ...string) (string, error) {
	n.t.Helper()
	cmd := exec.Command("../../scripts/helm", append([]string{"--kubeconfig", kubeconfig, "--namespace", n.name}, args...)...)
	out, err := cmd.CombinedOutput()
	const notThere = 127
	if failed := new(exec.ExitError); errors.As(err, &failed) && failed.ExitCode() == notThere {
		if os.Getenv("CI") == "true" {
			n.t.Fatal(string(out))
		}
		n.t.Skip(string(out))
	}
	return string(out), err
}
