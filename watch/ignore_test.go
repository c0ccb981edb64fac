package watch

import (
	"slices"
	"strings"
	"testing"
)

func TestIgnores(t *testing.T) {
	for _, test := range []struct {
		rules   string   // one a line
		ignored []string // below /srv/app; a folder ends with a slash
		kept    []string
	}{
		// minimatch, as forever has it.
		{"*.log", []string{"a.log", "deep/er/b.log", "folder.log/"}, []string{"a.log.txt", "log"}},
		{"log", []string{"log", "log/", "deep/log/"}, []string{"catalog/", "log.js"}},
		{"log/*", []string{"log/a", "log/sub/"}, []string{"log/", "deep/log/a"}},
		{"ign/**", []string{"ign/a", "ign/b/c"}, []string{"ign/", "deep/ign/a"}},
		{"**/other/*", []string{"other/a", "deep/er/other/a"}, []string{"other/"}},
		{"**/*.md", []string{"a.md", "b/c/d.md"}, []string{"a.mdx"}},
		{"{tmp,cache}/**", []string{"tmp/a", "cache/b/c"}, []string{"tmpx/a"}},
		{"*.{css,scss}", []string{"a.css", "b/c.scss"}, []string{"c.less"}},
		{"[a-c]?.js", []string{"a1.js", "d/c2.js"}, []string{"d1.js", "a.js"}},
		{"[!a].js", []string{"b.js"}, []string{"a.js"}},
		{"/srv/app/views/*", []string{"views/a"}, []string{"views/", "x/views/a"}},
		{"/srv/**/gen", []string{"gen", "a/b/gen/"}, []string{"gen/x"}},
		{"# comment\n#x\n\n  \n", nil, []string{"# comment", "#x", "a"}},
		{`\#x`, []string{"#x"}, []string{"x"}},
		{"с пробелом", []string{"с пробелом", "d/с пробелом"}, []string{"с"}},
		// Patterns that forever's users write in vain.
		{"tmp/", []string{"tmp/", "deep/tmp/"}, []string{"tmp", "deep/tmp"}},
		{"build/out/", []string{"build/out/"}, []string{"build/out", "x/build/out/"}},
		{"./x.txt", []string{"x.txt"}, []string{"deep/x.txt"}},
		{"./tmp/", []string{"tmp/"}, []string{"deep/tmp/"}},
		{"/views/*", []string{"views/a"}, []string{"x/views/a"}},
		{"/dist", []string{"dist", "dist/"}, []string{"x/dist"}},
		{"*.js\n!app.js", []string{"a.js", "x/b.js"}, []string{"app.js", "x/app.js"}},
		{"!app.js\n*.js", []string{"app.js"}, nil},
		{"!app.js", nil, []string{"app.js", "other.js"}},
		{"log/**\n!log/keep.txt", []string{"log/a"}, []string{"log/", "log/keep.txt"}},
		{`\!x`, []string{"!x"}, []string{"x"}},
		{"*.log\r\n*.tmp\r\n", []string{"a.log", "a.tmp"}, nil},
		// Nothing, in many words.
		{"/\n!\n./\n//", nil, []string{"a", "a/"}},
	} {
		rules, bad := appendRules(nil, strings.Split(test.rules, "\n"))
		if len(bad) > 0 {
			t.Errorf("%q: %v", test.rules, bad)
		}
		check := func(paths []string, want bool) {
			for _, path := range paths {
				rel, isFolder := strings.CutSuffix(path, "/")
				if ignores(rules, "/srv/app/"+rel, rel, isFolder) != want {
					t.Errorf("%q: %q is ignored: %t", test.rules, path, !want)
				}
			}
		}
		check(test.ignored, true)
		check(test.kept, false)
	}
}

func TestDefaultRules(t *testing.T) {
	rules, _ := appendRules(slices.Clip(defaultRules), []string{"!.env", "config"})
	for rel, want := range map[string]bool{
		"node_modules": true, "a/node_modules": true, "logs/access.log": true, "app.pid": true, "log": false, ".git": true, "a/.x.swp": true, "..2024_01_01": true,
		"config": true, ".env": false, "..data": false, "a/..data": false, "app.js": false,
	} {
		if ignores(rules, "/srv/"+rel, rel, true) != want {
			t.Errorf("%q is ignored: %t", rel, !want)
		}
	}
}

func TestBadGlobs(t *testing.T) {
	for _, glob := range []string{"[a", "{a,b", `a\`, "!(a|b).js", "@(a|b)"} {
		rules, bad := appendRules(nil, []string{"ok", glob})
		if len(rules) != 1 || len(bad) != 1 {
			t.Errorf("%q gives %v and %v", glob, rules, bad)
		}
		_, err := New(Options{Dirs: []string{t.TempDir()}, Ignore: []string{glob}}, nil, nil)
		if err == nil || !strings.Contains(err.Error(), strings.Trim(glob, `\`)) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q is told as %v", glob, err)
		}
	}
}

func FuzzIgnores(f *testing.F) {
	f.Add("!/a/**/{b,c}/[d-e]?", "a/b/c")
	f.Fuzz(func(t *testing.T, line, path string) {
		rules, _ := appendRules(nil, []string{line})
		ignores(rules, "/"+path, path, false)
	})
}
