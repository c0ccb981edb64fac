package cli

import (
	"os/exec"
	"strings"
	"testing"
)

// The manual page has every option and every action, and groff has nothing to
// say against it.
func TestManPage(t *testing.T) {
	page := manPage()
	plain := strings.ReplaceAll(page, `\-`, "-")
	for _, o := range append(append([]option(nil), table...), actionTable...) {
		if !strings.Contains(plain, strings.TrimSpace(o.synopsis())) {
			t.Errorf("--%s is not in it", o.name)
		}
	}
	for _, a := range actions() {
		if !strings.Contains(plain, ".TP\n.B "+a.name) {
			t.Errorf("%s is not in it", a.name)
		}
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		missing(t, "groff", err)
	}
	cmd := exec.Command(groff, "-man", "-ww", "-Tascii", "-z")
	cmd.Stdin = strings.NewReader(page)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}
