package cli

import (
	"runtime/debug"
	"strings"
)

// These are set by the linker: -X evermore/cli.version=1.2.3. What it leaves
// empty is what Go has recorded of the build.
var version, revision string

// build gives the version of evermore and the revision of its source; "unknown"
// for what was not recorded.
func build() (v, rev string) {
	v, rev = version, revision
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = strings.Trim(info.Main.Version, "()") // "(devel)"
		}
		if rev == "" {
			rev = vcsRevision(info)
		}
	}
	if v == "" {
		v = "unknown"
	}
	if rev == "" {
		rev = "unknown"
	}
	return v, rev
}

func vcsRevision(info *debug.BuildInfo) string {
	recorded := map[string]string{}
	for _, s := range info.Settings {
		recorded[s.Key] = s.Value
	}
	rev := recorded["vcs.revision"]
	if rev != "" && recorded["vcs.modified"] == "true" {
		rev += "+dirty"
	}
	return rev
}

// versionText is the answer to --version. Scripts that call forever expect
// "v4.0.3".
func (s *settings) versionText() string {
	v, rev := build()
	if s.program == "forever" {
		return "v" + trimV(v) + "\n"
	}
	if rev == "unknown" {
		return s.program + " " + trimV(v) + "\n"
	}
	return s.program + " " + trimV(v) + " (revision " + rev + ")\n"
}

func trimV(v string) string {
	if len(v) > 1 && v[0] == 'v' && '0' <= v[1] && v[1] <= '9' {
		return v[1:]
	}
	return v
}
