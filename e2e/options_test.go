package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every option that the documentation lists is used by a script, and so is every
// variable.
func TestEveryOptionHasAScript(t *testing.T) {
	documented, err := os.ReadFile("../docs/options.md")
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	var scripts strings.Builder
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		scripts.Write(text)
	}
	rows := regexp.MustCompile("(?m)^\\| `(?:-(\\w), )?--(?:\\[no-\\])?([a-z0-9-]+).*?` \\| (?:`(EVERMORE_\\w+)`)?").FindAllStringSubmatch(string(documented), -1)
	if len(rows) < 30 {
		t.Fatalf("docs/options.md has %d rows", len(rows))
	}
	for _, row := range rows {
		short, name, variable := row[1], row[2], row[3]
		camel := regexp.MustCompile("-[a-z]").ReplaceAllStringFunc(name, func(s string) string { return strings.ToUpper(s[1:]) })
		flags := "--(no-)?(" + name + "|" + camel + ")"
		if short != "" {
			flags += "|-" + short
		}
		if !regexp.MustCompile(`(evermore|forever)(-static)? (.* )?(` + flags + `)[ =]`).MatchString(scripts.String()) {
			t.Errorf("no script uses --%s", name)
		}
		if variable != "" && !strings.Contains(scripts.String(), variable+"=") {
			t.Errorf("no script sets %s", variable)
		}
	}
}
