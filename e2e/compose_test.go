package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestCompose runs deploy/compose.yaml as it is, with images of this machine: the
// app serves, and Prometheus has it and the rules.
func TestCompose(t *testing.T) {
	t.Parallel()
	needs(t, "podman-compose", "prometheus")
	p := inContainers(t)
	const image = "localhost/evermore-e2e-prometheus"
	if err := ran("image/build.sh", "prometheus"); err != nil {
		t.Fatal(err)
	}
	var ports [2]string
	for i := range ports {
		port, err := freePort()
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = strconv.Itoa(port)
	}
	// Where podman was first used with CNI's plugins, its containers have no names.
	conf := filepath.Join(t.TempDir(), "containers.conf")
	if err := os.WriteFile(conf, []byte("[network]\nnetwork_backend = \"netavark\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "CONTAINERS_CONF="+conf)
	ask := exec.Command("podman", "network", "ls")
	ask.Env = env
	if out, err := ask.CombinedOutput(); err != nil {
		lacks(t, fmt.Sprintf("podman has no netavark: %s", out))
	}
	project := fmt.Sprintf("evermore-e2e-compose-%d", os.Getpid())
	compose := func(args ...string) error {
		cmd := exec.Command("podman-compose", slices.Concat([]string{
			"--podman-args", strings.Join(p.global, " "), "--podman-run-args", strings.Join(p.run, " "),
			"--project-name", project, "--file", "../deploy/compose.yaml",
		}, args)...)
		cmd.Env = append(env, "APP_IMAGE="+containerImage, "PROMETHEUS_IMAGE="+image, "APP_PORT="+ports[0], "PROMETHEUS_PORT="+ports[1])
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("podman-compose %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	t.Cleanup(func() {
		if err := compose("down", "--volumes"); err != nil {
			t.Error(err)
		}
		// Old versions of podman-compose leave the network.
		remove := exec.Command("podman", "network", "rm", "--force", project+"_default")
		remove.Env = env
		_ = remove.Run()
	})
	if err := compose("up", "--detach", "--no-build"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the app answers", func() bool {
		response, err := http.Get("http://" + net.JoinHostPort("127.0.0.1", ports[0]))
		if err != nil {
			return false
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return strings.HasPrefix(string(text), "pid ")
	})
	prometheus := &prometheus{t: t, address: net.JoinHostPort("127.0.0.1", ports[1])}
	prometheus.awaitReady(func() {})
	prometheus.await(`evermore_child_ready{job="app"}`, 1)
	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	eventually(t, "all rules are evaluated, well", func() bool {
		prometheus.get("/api/v1/rules", url.Values{}, &rules)
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				if r.Health == "err" {
					t.Fatalf("%s: %s", r.Name, r.LastError)
				}
				if r.Health != "ok" {
					return false
				}
			}
		}
		return len(rules.Groups) > 0
	})
}
