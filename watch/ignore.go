package watch

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

const (
	// ignoreFile is read in each of Options.Dirs.
	ignoreFile = ".foreverignore"
	// dataLink is the symlink that Kubernetes swaps when a mounted ConfigMap or
	// Secret changes, and the only sign of it: the files are symlinks through it
	// and stay as they are (kubernetes/pkg/volume/util/atomic_writer.go).
	dataLink = "..data"
)

// defaultRules are undone by Options.All, and in part by a later "!pattern".
var defaultRules = []rule{
	{glob: "node_modules"},
	{glob: "*.log"},
	{glob: "*.pid"},
	{glob: ".*"},
	{glob: dataLink, keep: true},
}

// rule is one glob of --watch-ignore or .foreverignore.
//
// It means what minimatch made of it in forever (with matchBase), and beyond
// that what users of gitignore(5) expect of a trailing slash, a leading one, "#"
// and "!".
type rule struct {
	glob    string
	path    bool // matches the path from the watched folder, not only the last element
	rooted  bool // began with a slash: matches the absolute path, too
	folders bool // ended with a slash: matches folders only
	keep    bool // began with "!": undoes what rules before it ignore
}

// extGlob is what minimatch knows and doublestar does not.
var extGlob = regexp.MustCompile(`[!?+*@]\([^/]*\)`)

// appendRules appends what the lines say. Lines that are no globs are left out,
// each named by an error.
func appendRules(rules []rule, lines []string) (_ []rule, bad []error) {
	for _, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if extGlob.MatchString(line) {
			bad = append(bad, fmt.Errorf("%q has an extended glob, which is not supported: write {a,b} for @(a|b)", line))
			continue
		}
		var r rule
		r.glob, r.keep = strings.CutPrefix(line, "!")
		r.glob, r.folders = strings.CutSuffix(r.glob, "/")
		here := r.glob
		r.glob = strings.TrimPrefix(r.glob, "./")
		r.path = strings.Contains(here, "/")
		r.glob, r.rooted = strings.CutPrefix(r.glob, "/")
		if strings.HasSuffix(r.glob, "/**") {
			// All that is in the folder, but not the folder itself: then a later
			// "!" can still bring back something in it.
			r.glob += "/*"
		}
		if !doublestar.ValidatePattern(r.glob) {
			bad = append(bad, fmt.Errorf("%q is not a valid glob", line))
			continue
		}
		if r.glob != "" {
			rules = append(rules, r)
		}
	}
	return rules, bad
}

// ignores tells what the rules say of a path: the last that matches decides.
// rel is the path from the watched folder.
func ignores(rules []rule, abs, rel string, isFolder bool) bool {
	for i := len(rules) - 1; i >= 0; i-- {
		if r := rules[i]; (isFolder || !r.folders) && r.matches(abs, rel) {
			return !r.keep
		}
	}
	return false
}

func (r rule) matches(abs, rel string) bool {
	if !r.path {
		return doublestar.MatchUnvalidated(r.glob, path.Base(rel))
	}
	return doublestar.MatchUnvalidated(r.glob, rel) || r.rooted && doublestar.MatchUnvalidated(r.glob, abs[1:])
}
