package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	chart  = "helm/evermore"
	schema = chart + "/values.schema.json"
	// What the templates are made for, where no cluster is asked.
	kubernetes = "1.34.0"
)

// helm gives what it writes, and its error.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	const program = "../scripts/helm"
	if err := exec.Command(program, "version").Run(); err != nil {
		lacks(t, "helm is missing: scripts/helm --build")
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	return string(out), err
}

func valueSets(t *testing.T) []string {
	t.Helper()
	sets, err := filepath.Glob("testdata/helm/*.values.yaml")
	if err != nil || len(sets) == 0 {
		t.Fatalf("there are no values: %v", err)
	}
	return sets
}

// object is a manifest, as far as it is looked at.
type object struct {
	Kind string
	Spec struct {
		Groups   any
		Template struct {
			Spec struct {
				Grace      int `yaml:"terminationGracePeriodSeconds"`
				Containers []struct {
					Env []struct{ Name, Value string }
				}
			}
		}
	}
}

// TestChart compares what the chart gives for several sets of values with what it
// gave before.
func TestChart(t *testing.T) {
	for _, values := range valueSets(t) {
		t.Run(filepath.Base(values), func(t *testing.T) {
			if out, err := helm(t, "lint", "--strict", "--kube-version", kubernetes, "--values", values, chart); err != nil {
				t.Fatalf("helm lint: %v\n%s", err, out)
			}
			got, err := helm(t, "template", "shop", chart, "--namespace", "web", "--kube-version", kubernetes, "--values", values)
			if err != nil {
				t.Fatalf("helm template: %v\n%s", err, got)
			}
			golden := strings.TrimSuffix(values, ".values.yaml") + ".golden.yaml"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := read(t, golden); got != want {
				t.Errorf("helm template gives other than %s (go test ./deploy -update writes it anew):\n%s", golden, got)
			}
			for _, o := range objects(t, got) {
				pod := o.Spec.Template.Spec
				for _, c := range pod.Containers {
					for _, e := range c.Env {
						if want := strconv.Itoa(pod.Grace) + "s"; e.Name == "EVERMORE_GRACE" && e.Value != want {
							t.Errorf("evermore believes to have %s to stop, the kubelet gives it %s", e.Value, want)
						}
					}
				}
			}
		})
	}
}

// objects parses manifests, and refuses keys that are there twice.
func objects(t *testing.T, text string) (all []object) {
	t.Helper()
	for part := range strings.SplitSeq(text, "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(part), &o); err != nil {
			t.Fatalf("%v in\n%s", err, part)
		}
		all = append(all, o)
	}
	return all
}

// Values that can't be meant are refused, with their name.
func TestChartSchema(t *testing.T) {
	for name, set := range map[string]string{
		"repository":                    "image.repository=",
		"command":                       "command=null",
		"kill-timout":                   "options.kill-timout=3s",
		"http":                          "options.http=:80", // metrics.port
		"replicas":                      "replicas=many",
		"replica":                       "replica=3",
		"port":                          "port=70000",
		"terminationGracePeriodSeconds": "terminationGracePeriodSeconds=0",
		"pullPolicy":                    "image.pullPolicy=Sometimes",
		"interval":                      "podMonitor.interval=often",
		"digest":                        "image.digest=latest",
	} {
		out, err := helm(t, "template", "shop", chart, "--kube-version", kubernetes, "--values", "testdata/helm/minimal.values.yaml", "--set", set)
		if err == nil || !strings.Contains(out, "values don't meet the specifications of the schema") || !strings.Contains(out, name) {
			t.Errorf("--set %s: %v\n%s", set, err, out)
		}
	}
}

// The schema knows the options that evermore has, but for those that are other
// values of the chart.
func TestChartOptions(t *testing.T) {
	set := regexp.MustCompile(`(?s)("option": \{\s*"enum": \[).*?(\])`)
	var names []string
	for _, row := range regexp.MustCompile("(?m)^\\| `[^`]*` \\| `EVERMORE_([A-Z_]+)` \\|").FindAllStringSubmatch(read(t, "../docs/options.md"), -1) {
		name := strings.ToLower(strings.ReplaceAll(row[1], "_", "-"))
		if name != "http" && name != "grace" {
			names = append(names, strconv.Quote(name))
		}
	}
	if len(names) < 20 {
		t.Fatalf("only %d options were found", len(names))
	}
	slices.Sort(names)
	old := read(t, schema)
	want := set.ReplaceAllString(old, "${1}\n        "+strings.Join(names, ",\n        ")+"\n      ${2}")
	if *update {
		if err := os.WriteFile(schema, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if old != want {
		t.Errorf("%s has other options than docs/options.md: go test ./deploy -update", schema)
	}
}

// The chart has the rules of deploy/prometheus, since Helm reads nothing outside
// of it.
func TestChartRules(t *testing.T) {
	const copied = chart + "/files/evermore.rules.yaml"
	want := read(t, rulesFile)
	if *update {
		if err := os.WriteFile(copied, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, copied) != want {
		t.Errorf("%s is not %s: go test ./deploy -update", copied, rulesFile)
	}
	var plain struct{ Groups any }
	parse(t, rulesFile, &plain)
	found := false
	for _, o := range objects(t, read(t, "testdata/helm/all.golden.yaml")) {
		if o.Kind == "PrometheusRule" {
			found = true
			if !reflect.DeepEqual(o.Spec.Groups, plain.Groups) {
				t.Error("the PrometheusRule of the chart has other rules")
			}
		}
	}
	if !found {
		t.Error("the chart made no PrometheusRule")
	}
}
