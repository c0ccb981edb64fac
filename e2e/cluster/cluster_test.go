// Package cluster proves what deploy/kubernetes promises in a real Kubernetes:
// test.sh starts one and runs these tests in it.
package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// patience is how long something that must happen may take on a machine that is
	// busy with other pods. Nothing waits for it to pass.
	patience = 2 * time.Minute

	// image has a tag for each target of the Dockerfile here.
	image = "localhost/evermore-e2e-cluster"

	// manifests is what is proved, from the folder of these tests.
	manifests = "../../deploy/kubernetes"
)

// noCluster is why a plain go test runs none of these.
const noCluster = "there is no cluster: make e2e starts one"

// kubeconfig is that of the cluster; empty: there is none.
var kubeconfig = os.Getenv("EVERMORE_E2E_KUBECONFIG")

func TestMain(m *testing.M) {
	flag.Parse()
	// They mostly wait for the kubelet.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("4")
	}
	if kubeconfig != "" {
		if err := loadImages(); err != nil {
			fmt.Fprintln(os.Stderr, "cannot bring the images into the cluster:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// loadImages builds them and brings them into the node.
func loadImages() error {
	dir, err := os.MkdirTemp("", "evermore-e2e-cluster-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-trimpath", "-tags=nethttpomithttp2", "-ldflags=-s -w", "-o", filepath.Join(dir, "evermore"), "evermore")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	steps := []*exec.Cmd{
		build,
		exec.Command("cp", "Dockerfile", "../../examples/server/server.js", dir),
		exec.Command("../image/build.sh", "node"),
	}
	for _, target := range []string{"evermore", "plain", "app"} {
		steps = append(steps,
			// Limits that may be set inside a container or a small virtual machine.
			exec.Command("podman", "--runtime", "runc", "build", "--quiet", "--network", "none",
				"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--target", target, "--tag", image+":"+target, dir),
			exec.Command("./load.sh", image+":"+target))
	}
	for _, step := range steps {
		if out, err := step.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", step, err, out)
		}
	}
	return nil
}

// namespace is one of a test's own, under the restricted Pod Security Standard.
type namespace struct {
	t    *testing.T
	name string
}

// newNamespace makes it; what it has is shown when the test fails, and it is
// removed when the test ends.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if kubeconfig == "" {
		t.Skip(noCluster)
	}
	n := &namespace{t, "e2e-" + strings.ToLower(strings.NewReplacer("Test", "", "/", "-").Replace(t.Name()))}
	// One of a run that was interrupted.
	n.kubectl("delete", "namespace", n.name, "--ignore-not-found")
	n.apply(map[string]any{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{
			"name":   n.name,
			"labels": map[string]string{"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"},
		},
	})
	t.Cleanup(func() {
		if t.Failed() {
			n.show()
		}
		n.kubectl("delete", "namespace", n.name, "--wait=false")
	})
	eventually(t, "the namespace has an account for pods", func() error {
		_, err := n.try(nil, "get", "serviceaccount", "default")
		return err
	})
	return n
}

// try runs kubectl and gives what it wrote to stdout.
func (n *namespace) try(stdin io.Reader, args ...string) (string, error) {
	cmd := exec.Command("kubectl", append([]string{"--kubeconfig", kubeconfig, "--namespace", n.name}, args...)...)
	cmd.Stdin = stdin
	out, err := cmd.Output()
	if failed := new(exec.ExitError); errors.As(err, &failed) {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, failed.Stderr)
	}
	return string(out), err
}

func (n *namespace) kubectl(args ...string) string {
	n.t.Helper()
	out, err := n.try(nil, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// decode reads what kubectl shows of objects.
func (n *namespace) decode(to any, args ...string) {
	n.t.Helper()
	if err := json.Unmarshal([]byte(n.kubectl(append(args, "--output", "json")...)), to); err != nil {
		n.t.Fatal(err)
	}
}

func (n *namespace) apply(object any) {
	n.t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := n.try(bytes.NewReader(text), "apply", "--filename", "-"); err != nil {
		n.t.Fatal(err)
	}
}

// show logs what a reader of a failed test needs.
func (n *namespace) show() {
	for _, args := range [][]string{
		{"get", "pods", "--output", "wide"},
		{"get", "events", "--sort-by", ".metadata.creationTimestamp", "--output", "custom-columns=TIME:.metadata.creationTimestamp,OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message"},
		{"logs", "--selector", "app.kubernetes.io/name=app", "--all-containers", "--prefix", "--tail", "40"},
	} {
		out, err := n.try(nil, args...)
		n.t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// overlay is how a test changes the base, as its users do.
type overlay struct {
	replicas   int // 1 if 0
	components []string
	args       []string // of the app's container; nil: the image's
	env        map[string]string
	container  map[string]any // further fields of the app's container
	pod        map[string]any // of the pod
}

// object is a part of a manifest.
type object = map[string]any

// kustomization gives the files of a kustomization in a folder beside deploy/.
func (o overlay) kustomization(n *namespace, dir string) map[string]any {
	here, err := filepath.Abs(manifests)
	if err != nil {
		n.t.Fatal(err)
	}
	// Kustomize takes no absolute paths.
	base, err := filepath.Rel(dir, here)
	if err != nil {
		n.t.Fatal(err)
	}
	container := object{"name": "app"}
	if o.args != nil {
		container["args"] = o.args
	}
	var env []object
	for name, value := range o.env {
		variable := object{"name": name, "value": value}
		if value == "" {
			variable = object{"name": name, "$patch": "delete"}
		}
		env = append(env, variable)
	}
	if env != nil {
		container["env"] = env
	}
	for name, value := range o.container {
		container[name] = value
	}
	pod := object{"containers": []object{container}}
	for name, value := range o.pod {
		pod[name] = value
	}
	patch, err := json.Marshal(object{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": object{"name": "app"},
		"spec": object{"replicas": max(o.replicas, 1), "template": object{"spec": pod}},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	components := []string{}
	for _, component := range o.components {
		components = append(components, filepath.Join(base, "components", component))
	}
	app := "app"
	if slices.Contains(o.components, "inject") {
		app = "plain"
	}
	return object{
		"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
		"namespace":  n.name,
		"resources":  []string{filepath.Join(base, "base")},
		"components": components,
		"images": []object{
			{"name": "app", "newName": image, "newTag": app},
			{"name": "evermore", "newName": image, "newTag": "evermore"},
			{"name": "sidecar", "newName": image, "newTag": "app"},
		},
		"patches": []object{{"patch": string(patch)}},
	}
}

// deploy applies the base with the overlay's changes. What the API server warns of
// fails the test: a pod that the restricted standard does not allow is one.
func (n *namespace) deploy(o overlay) {
	n.t.Helper()
	n.kubectl("apply", "--warnings-as-errors", "--kustomize", n.write(o))
}

// write gives a folder with the overlay's kustomization.
func (n *namespace) write(o overlay) (dir string) {
	n.t.Helper()
	dir = n.t.TempDir()
	text, err := json.Marshal(o.kustomization(n, dir))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "kustomization.yaml"), text, 0o644)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return dir
}

// pod is what the tests look at of one.
type pod struct {
	Metadata struct {
		Name              string
		DeletionTimestamp *time.Time
	}
	Status struct {
		PodIP                 string
		Phase                 string
		Conditions            []struct{ Type, Status string }
		ContainerStatuses     []container
		InitContainerStatuses []container
	}
}

type container struct {
	Name         string
	Ready        bool
	RestartCount int
	State        state
	LastState    state
}

// state is one of three, the others are nil.
type state struct {
	Waiting    *struct{ Reason, Message string }
	Running    *struct{ StartedAt time.Time }
	Terminated *struct {
		ExitCode              int
		Reason, Message       string
		StartedAt, FinishedAt time.Time
	}
}

func (p pod) is(condition string) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == condition {
			return c.Status == "True"
		}
	}
	return false
}

// app is the status of the app's container; of one that is not there yet, none.
func (p pod) app() container {
	if len(p.Status.ContainerStatuses) == 0 {
		return container{}
	}
	return p.Status.ContainerStatuses[0]
}

// pods gives the app's pods that are not about to go.
func (n *namespace) pods() (found []pod) {
	n.t.Helper()
	var list struct{ Items []pod }
	n.decode(&list, "get", "pods", "--selector", "app.kubernetes.io/name=app")
	for _, p := range list.Items {
		if p.Metadata.DeletionTimestamp == nil {
			found = append(found, p)
		}
	}
	return found
}

// pod gives one by its name.
func (n *namespace) pod(name string) (p pod) {
	n.t.Helper()
	n.decode(&p, "get", "pod", name)
	return p
}

// awaitPod waits until the only pod is as it should be.
func (n *namespace) awaitPod(what string, ok func(pod) bool) (p pod) {
	n.t.Helper()
	eventually(n.t, what, func() error {
		pods := n.pods()
		if len(pods) != 1 {
			return fmt.Errorf("there are %d pods", len(pods))
		}
		if p = pods[0]; !ok(p) {
			text, _ := json.Marshal(p.Status)
			return fmt.Errorf("the pod's status is %s", text)
		}
		return nil
	})
	return p
}

func (n *namespace) awaitReady() pod {
	n.t.Helper()
	return n.awaitPod("the pod is ready", func(p pod) bool { return p.is("Ready") })
}

// inside runs a command in the app's container; there is no shell in it.
func (n *namespace) inside(p pod, argv ...string) string {
	n.t.Helper()
	return n.kubectl(append([]string{"exec", p.Metadata.Name, "--container", "app", "--"}, argv...)...)
}

// log gives the lines of the app's container, of this life or the one before.
func (n *namespace) log(p pod, options ...string) []string {
	n.t.Helper()
	out := n.kubectl(append([]string{"logs", p.Metadata.Name, "--container", "app"}, options...)...)
	return slices.Collect(strings.Lines(out))
}

// event is a line of evermore's own log.
type event struct {
	Time    time.Time
	Event   string
	Reason  string
	Message string
	PID     int
	Code    *int
}

// events gives those in the log, in their order.
func (n *namespace) events(p pod, options ...string) []event {
	n.t.Helper()
	return parse(n.log(p, options...))
}

func parse(lines []string) (found []event) {
	for _, line := range lines {
		var e event
		if json.Unmarshal([]byte(line), &e) == nil && e.Event != "" {
			found = append(found, e)
		}
	}
	return found
}

// first gives the first of that kind.
func first(events []event, kind string) (e event, ok bool) {
	i := slices.IndexFunc(events, func(e event) bool { return e.Event == kind })
	if i < 0 {
		return event{}, false
	}
	return events[i], true
}

// count tells how often the cluster has told of something, as kubectl describe
// shows it.
func (n *namespace) count(message string) (sum int) {
	n.t.Helper()
	var list struct {
		Items []struct {
			Message string
			Count   int
		}
	}
	n.decode(&list, "get", "events")
	for _, e := range list.Items {
		if strings.Contains(e.Message, message) {
			sum += max(e.Count, 1)
		}
	}
	return sum
}

// http asks a port of a pod; the pods' addresses are reached from here.
func (p pod) http(port int, path string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d%s", p.Status.PodIP, port, path), nil)
	if err != nil {
		return 0, "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// metric adds up the samples of a metric of the app's evermore whose labels match.
func (p pod) metric(t *testing.T, name, labels string) float64 {
	t.Helper()
	return p.metricAt(t, 9797, name, labels)
}

func (p pod) metricAt(t *testing.T, port int, name, labels string) (sum float64) {
	t.Helper()
	_, text, err := p.http(port, "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	samples := regexp.MustCompile(`(?m)^`+name+`(\{[^}]*\})? (\S+)$`).FindAllStringSubmatch(text, -1)
	if len(samples) == 0 {
		t.Fatalf("there is no metric %s in:\n%s", name, text)
	}
	for _, sample := range samples {
		value, err := strconv.ParseFloat(sample[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(sample[1], labels) {
			sum += value
		}
	}
	return sum
}

// serving is the pid that the app answers with, once it does.
func (p pod) serving(t *testing.T, port int) (pid int) {
	t.Helper()
	eventually(t, "the app answers", func() error {
		status, body, err := p.http(port, "/")
		if err != nil {
			return err
		}
		if _, err := fmt.Sscanf(body, "pid %d,", &pid); err != nil {
			return fmt.Errorf("status %d: %q: %w", status, body, err)
		}
		return nil
	})
	return pid
}

// kill ends the app, as something else in its pod or the kernel would, and waits
// until the next one serves.
func (n *namespace) kill(p pod, port int, signal string) {
	n.t.Helper()
	before := p.serving(n.t, port)
	n.inside(p, "node", "-e", fmt.Sprintf("process.kill(%d, %q)", before, signal))
	eventually(n.t, "the app serves again", func() error {
		if now := p.serving(n.t, port); now == before {
			return fmt.Errorf("pid %d serves", now)
		}
		return nil
	})
}

// needs skips the test when a program is missing; where CI=true it fails.
func needs(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing", program)
	}
	t.Skipf("%s is missing", program)
}

// eventually waits until there is no error, and fails the test with the last one
// when that takes too long.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s: %v", what, err)
		}
		time.Sleep(pause)
	}
}
