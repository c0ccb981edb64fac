package metrics

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The README's table is the golden file in another form.
func TestReadme(t *testing.T) {
	const readme, begin, end = "../README.md", "<!-- metrics -->\n", "<!-- /metrics -->"
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(text), begin)
	old, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the metrics: %s", readme, begin)
	}
	golden, err := os.ReadFile("testdata/metrics.golden")
	if err != nil {
		t.Fatal(err)
	}
	table := readmeTable(string(golden))
	if table == old {
		return
	}
	if !*update {
		t.Fatalf("the table in %s differs from the series (go test ./metrics -update writes it anew); want\n%s", readme, table)
	}
	if err := os.WriteFile(readme, []byte(head+begin+table+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readmeTable(golden string) string {
	var b strings.Builder
	b.WriteString("| metric | type | labels | |\n|---|---|---|---|\n")
	help, kind := map[string]string{}, map[string]string{}
	told := map[string]bool{}
	for line := range strings.Lines(golden) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, text, _ := strings.Cut(rest, " ")
			help[name] = text
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, text, _ := strings.Cut(rest, " ")
			kind[name] = text
			continue
		}
		series, labels, _ := strings.Cut(line, "{")
		name := series
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			if base := strings.TrimSuffix(series, part); kind[base] == "histogram" {
				name = base
			}
		}
		if told[name] {
			continue
		}
		told[name] = true
		labels = strings.ReplaceAll(strings.TrimSuffix(labels, "}"), ",", " ")
		labels = strings.TrimSuffix(strings.ReplaceAll(labels, "le ", ""), " le")
		if labels != "" {
			labels = "`" + labels + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", strings.TrimPrefix(name, "evermore_"), kind[name], labels, help[name])
	}
	return b.String()
}
