package deploy

import (
	"os"
	"testing"

	"evermore/deploy/grafana"
	pid1 "evermore/init"
)

// The JSON is made of the source in the folder.
func TestDashboard(t *testing.T) {
	const golden = "grafana/evermore.json"
	want, err := grafana.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, golden) != string(want) {
		t.Errorf("%s is not what its source gives: go test ./deploy -update", golden)
	}
}

// Every metric that the panels name is one that evermore shows, and the panel of
// states knows all that there are.
func TestDashboardNamesMetrics(t *testing.T) {
	known := metrics(t)
	for _, row := range grafana.Rows() {
		for _, p := range row.Panels {
			for _, q := range p.Queries {
				checkExpr(t, p.Title, q.Expr, known)
			}
		}
	}
	told := map[string]bool{}
	for _, s := range grafana.AppStates() {
		told[s.Name] = true
	}
	for _, s := range pid1.States() {
		if s := string(s); !told[s] && s != string(pid1.StateRunning) {
			t.Errorf("the state %s is not in the dashboard", s)
		}
	}
}
