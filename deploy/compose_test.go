package deploy

import (
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// The library that Docker's own compose is made of, in a module of its own.
const compose = "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"

// TestCompose has the compose file checked against the specification; e2e runs it.
func TestCompose(t *testing.T) {
	var project struct {
		Services map[string]struct {
			Environment map[string]string
			Grace       string   `yaml:"stop_grace_period"`
			ReadOnly    bool     `yaml:"read_only"`
			CapDrop     []string `yaml:"cap_drop"`
			Restart     string
		}
	}
	if err := yaml.Unmarshal([]byte(run(t, "go", "run", compose, "compose.yaml")), &project); err != nil {
		t.Fatal(err)
	}
	for name, s := range project.Services {
		if !s.ReadOnly || len(s.CapDrop) != 1 || s.CapDrop[0] != "ALL" || s.Restart == "" {
			t.Errorf("the service %s may write, has capabilities or does not come back: %+v", name, s)
		}
	}
	app := project.Services["app"]
	if app.Environment["EVERMORE_GRACE"] != app.Grace {
		t.Errorf("evermore believes to have %s to stop, Docker gives it %s", app.Environment["EVERMORE_GRACE"], app.Grace)
	}
	grace, err := time.ParseDuration(app.Grace)
	if err != nil {
		t.Fatal(err)
	}
	if kill, err := time.ParseDuration(app.Environment["EVERMORE_KILL_TIMEOUT"]); err != nil || kill >= grace {
		t.Errorf("the app has %s to stop, evermore %s: %v", kill, grace, err)
	}
}
