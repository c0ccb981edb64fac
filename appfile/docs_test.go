package appfile

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/pm2.md anew")

// What the page for pm2's users says of each key is what the table does.
func TestPM2Page(t *testing.T) {
	const page = "../docs/pm2.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), "<!-- keys -->\n")
	_, tail, ended := strings.Cut(rest, "<!-- /keys -->")
	if !ok || !ended {
		t.Fatalf("%s has no place for the keys", page)
	}
	var b strings.Builder
	b.WriteString("| key | here | |\n|---|---|---|\n")
	for _, k := range PM2Keys() {
		here := "-"
		switch {
		case k.Refused:
			here = "an error"
		case k.Option == "environment":
			here = "the environment"
		case k.Option != "":
			here = k.Option
			if strings.ToUpper(here) != here {
				here = "`--" + here + "`"
			}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.Key, here, strings.ReplaceAll(k.Note, "|", "\\|"))
	}
	want := head + "<!-- keys -->\n" + b.String() + "<!-- /keys -->" + tail
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if string(text) != want && !*update {
		t.Errorf("%s has changed (go test ./appfile -update writes it)", page)
	}
}
