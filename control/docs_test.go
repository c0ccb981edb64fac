package control

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The endpoints, the fields of the answers and the bounds that docs/control.md
// tells are those that there are.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../docs/control.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(text)
	var told, real []string
	for _, m := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllStringSubmatch(doc, -1) {
		told = append(told, m[1])
	}
	for _, e := range (&Server{}).endpoints() {
		real = append(real, e.method+" "+e.path)
		if !strings.Contains(doc, "http://evermore"+e.path) {
			t.Errorf("%s has no example", e.path)
		}
	}
	slices.Sort(told)
	slices.Sort(real)
	if !slices.Equal(told, real) {
		t.Errorf("told are %q, there are %q", told, real)
	}

	fields := regexp.MustCompile("`([a-z_]+)`")
	for head, of := range map[string]reflect.Type{
		"| field | |": reflect.TypeFor[State](), "| in a worker | |": reflect.TypeFor[Worker](),
		"| in a death | |": reflect.TypeFor[Death](),
	} {
		_, section, found := strings.Cut(doc, head)
		if !found {
			t.Fatalf("there is no %s", head)
		}
		section, _, _ = strings.Cut(section, "\n\n")
		var documented []string
		for row := range strings.Lines(section) {
			if cells := strings.Split(row, "|"); len(cells) > 1 {
				for _, m := range fields.FindAllStringSubmatch(cells[1], -1) {
					documented = append(documented, m[1])
				}
			}
		}
		for _, f := range reflect.VisibleFields(of) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if f.Anonymous {
				continue
			}
			if i := slices.Index(documented, name); i >= 0 {
				documented = slices.Delete(documented, i, i+1)
			} else {
				t.Errorf("field %s of %s is not documented", name, of)
			}
		}
		if len(documented) > 0 {
			t.Errorf("there are no such fields of %s: %q", of, documented)
		}
	}

	for _, bound := range []string{strconv.Itoa(maxConns) + " are served", strconv.Itoa(maxLasting) + ":", "more than " + strconv.Itoa(eventBuffer), strconv.Itoa(maxBody>>10) + " KiB"} {
		if !strings.Contains(doc, bound) {
			t.Errorf("it does not say %q", bound)
		}
	}
}
