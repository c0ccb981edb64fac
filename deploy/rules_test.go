// Package deploy holds what is here together: the rules, the dashboard, the chart
// and the compose file speak of metrics, options and of each other.
package deploy

import (
	"flag"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	rulesFile  = "prometheus/evermore.rules.yaml"
	alertsFile = "../docs/alerts.md"
)

var update = flag.Bool("update", false, "write the golden files anew")

// tool skips the test when the program is missing; where CI=true it fails.
func tool(t *testing.T, name, hint string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		lacks(t, name+" is missing: "+hint)
	}
}

// lacks skips the test for the reason; where CI=true it fails.
func lacks(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// run gives what a program writes, and fails the test when that fails.
func run(t *testing.T, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var out, failure strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &failure // go says there what it downloads
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(argv, " "), err, out.String(), failure.String())
	}
	return out.String()
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func parse(t *testing.T, path string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, path)), into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// rule is an entry of a file of rules.
type rule struct {
	Record, Alert, Expr string
	Labels, Annotations map[string]string
}

// ruleGroups is a file of rules.
type ruleGroups struct{ Groups []struct{ Rules []rule } }

func (g ruleGroups) rules() (all []rule) {
	for _, group := range g.Groups {
		all = append(all, group.Rules...)
	}
	return all
}

func rules(t *testing.T) []rule {
	t.Helper()
	var g ruleGroups
	parse(t, rulesFile, &g)
	return g.rules()
}

func TestRules(t *testing.T) {
	tool(t, "promtool", "apt-get install prometheus")
	run(t, "promtool", "check", "rules", rulesFile)
	run(t, "promtool", "test", "rules", "prometheus/evermore.test.yaml")
}

// Every alert is told of in the docs, and tested both ways.
func TestAlerts(t *testing.T) {
	var tests struct {
		Tests []struct {
			AlertRules []struct {
				Name   string `yaml:"alertname"`
				Expect []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	parse(t, "prometheus/evermore.test.yaml", &tests)
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, a := range test.AlertRules {
			fires[a.Name] = fires[a.Name] || len(a.Expect) > 0
			silent[a.Name] = silent[a.Name] || len(a.Expect) == 0
		}
	}
	docs := read(t, alertsFile)
	var told []string
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		told = append(told, r.Alert)
		if !fires[r.Alert] || !silent[r.Alert] {
			t.Errorf("%s has no test in which it fires, or none in which it does not", r.Alert)
		}
		severity := r.Labels["severity"]
		if severity != "warning" && severity != "critical" {
			t.Errorf("%s has the severity %q", r.Alert, severity)
		}
		_, paragraph, found := strings.Cut(docs, "\n## "+r.Alert+"\n\n")
		if !found {
			t.Errorf("%s has no paragraph in %s", r.Alert, alertsFile)
		} else if !strings.HasPrefix(paragraph, "*"+severity+".* ") {
			t.Errorf("%s has another severity in %s than %s", r.Alert, alertsFile, severity)
		}
		for _, name := range []string{"summary", "description"} {
			if r.Annotations[name] == "" {
				t.Errorf("%s has no %s", r.Alert, name)
			}
		}
		if want := "docs/alerts.md#" + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s has the runbook %q, not %q", r.Alert, r.Annotations["runbook_url"], want)
		}
	}
	for _, heading := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(docs, -1) {
		if !slices.Contains(told, heading[1]) {
			t.Errorf("%s tells of %s, which is no alert", alertsFile, heading[1])
		}
	}
}

// Every metric that the rules name is one that evermore shows, with the labels
// that it has, or a known one of others.
func TestRulesNameMetrics(t *testing.T) {
	known := metrics(t)
	for _, r := range rules(t) {
		if r.Record != "" {
			known[r.Record] = nil
		}
	}
	for _, r := range rules(t) {
		checkExpr(t, r.Record+r.Alert, r.Expr, known)
		for _, name := range asked.FindAllString(r.Annotations["description"], -1) {
			if _, ok := known[name]; !ok {
				t.Errorf("%s: its description asks for %s, which is no metric", r.Alert, name)
			}
		}
	}
}

// metrics gives what evermore exposes, with the labels, from the golden file that
// the tests of the package metrics hold equal to it; and what others do.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	known := map[string][]string{
		"up": {},
		// https://github.com/kubernetes/kube-state-metrics/blob/main/docs/metrics/workload/pod-metrics.md
		"kube_pod_container_status_waiting_reason":           {"reason"},
		"kube_pod_container_status_last_terminated_reason":   {"reason"},
		"kube_pod_container_status_last_terminated_exitcode": {},
		"kube_pod_container_status_restarts_total":           {},
	}
	histograms := map[string]bool{}
	for line := range strings.Lines(read(t, "../metrics/testdata/metrics.golden")) {
		if strings.HasPrefix(line, "#") {
			if fields := strings.Fields(line); fields[1] == "TYPE" && fields[3] == "histogram" {
				histograms[fields[2]] = true
			}
			continue
		}
		name, labels, _ := strings.Cut(strings.TrimSpace(line), "{")
		names := strings.Split(strings.TrimSuffix(labels, "}"), ",")
		if !histograms[name] {
			known[name] = names
			continue
		}
		known[name+"_bucket"] = append(names, "le")
		known[name+"_sum"], known[name+"_count"] = names, names
	}
	if len(known) < 20 {
		t.Fatalf("there are only %d metrics", len(known))
	}
	return known
}

var (
	asked     = regexp.MustCompile(`\b(?:evermore|kube)_[a-z_]+`)
	quoted    = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	selector  = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)?\{([^}]*)\}`)
	matcher   = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)`)
	grouping  = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)`)
	window    = regexp.MustCompile(`\[[^\]]*\]`)
	word      = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\s*\(?`)
	operators = []string{"and", "or", "unless", "bool", "offset"}
	// What Prometheus adds to every series of a target, there or by a PodMonitor.
	targetLabels = []string{"job", "instance", "namespace", "pod", "container"}
)

// checkExpr finds metrics, and labels in selectors, that do not exist.
func checkExpr(t *testing.T, where, expr string, known map[string][]string) {
	t.Helper()
	found := 0
	expr = quoted.ReplaceAllString(expr, `""`)
	for _, s := range selector.FindAllStringSubmatch(expr, -1) {
		for _, label := range matcher.FindAllStringSubmatch(s[2], -1) {
			if labels, ok := known[s[1]]; ok && !slices.Contains(labels, label[1]) && !slices.Contains(targetLabels, label[1]) {
				t.Errorf("%s: %s has no label %s", where, s[1], label[1])
			}
		}
	}
	rest := selector.ReplaceAllString(expr, "$1 ")
	rest = window.ReplaceAllString(grouping.ReplaceAllString(rest, " "), " ")
	for _, w := range word.FindAllString(rest, -1) {
		w = strings.TrimSpace(w)
		if strings.HasSuffix(w, "(") || slices.Contains(operators, w) {
			continue
		}
		if _, ok := known[w]; !ok {
			t.Errorf("%s: there is no metric %s", where, w)
		}
		found++
	}
	if found == 0 {
		t.Errorf("%s names no metric: %s", where, expr)
	}
}
