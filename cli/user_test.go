package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindUser(t *testing.T) {
	etc := t.TempDir()
	const passwd = "root:x:0:0:root:/root:/bin/sh\n" +
		"# a comment\n" +
		"short:x:1\n" +
		"node:x:1000:1000::/home/node:/bin/sh\n" +
		"homeless:x:7:7:::/bin/sh\n" +
		"1000:x:2000:2000::/home/odd:/bin/sh\n" +
		"bad:x:minus:0::/:/bin/sh\n" +
		"last:x:3000:3000::/home/last:/bin/sh" // no newline
	const group = "root:x:0:\nnode:x:1000:\naudio:x:29:node,other\nvideo:x:44:other,node\nodd:x:no:node\nself:x:7:homeless\n"
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]string{ // uid gid groups name home
		"node":       "1000 1000 [1000 29 44] node /home/node",
		"root":       "0 0 [0] root /root",
		"0":          "0 0 [0] root /root",
		"homeless":   "7 7 [7] homeless /",
		"node:audio": "1000 29 [29] node /home/node",
		"node:44":    "1000 44 [44] node /home/node",
		"node:5555":  "1000 5555 [5555] node /home/node",
		"1234":       "1234 1234 [1234] 1234 /",
		"1234:29":    "1234 29 [29] 1234 /",
		"1234:audio": "1234 29 [29] 1234 /",
		// As docker has it, a name comes before a number.
		"1000":       "2000 2000 [2000] 1000 /home/odd",
		"last":       "3000 3000 [3000] last /home/last",
		"nobody":     `unknown user "nobody"`,
		"":           `unknown user ""`,
		":node":      `unknown user ""`,
		"node:":      `unknown group ""`,
		"node:x":     `unknown group "x"`,
		"-1":         `unknown user "-1"`,
		"4294967295": `unknown user "4294967295"`,
		"4294967296": `unknown user "4294967296"`,
		"bad":        `user "bad" has no proper uid and gid in ` + etc + "/passwd",
		"short":      `unknown user "short"`,
	}
	for text, want := range tests {
		who, err := findUser(text, etc)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprint(who.credential.Uid, who.credential.Gid, who.credential.Groups, " ", who.name, " ", who.home)
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
	// An image from scratch has no users, but numbers.
	none := filepath.Join(etc, "none")
	if who, err := findUser("1234:5", none); err != nil || who.credential.Gid != 5 {
		t.Errorf("got %+v, %v", who, err)
	}
	t.Setenv("USER", "app")
	if who, err := findUser("app", none); err == nil {
		t.Errorf("$USER was taken for a user: %+v", who)
	}
	if _, err := findUser("root", "/dev/null"); err == nil || !strings.Contains(err.Error(), "/dev/null/passwd") {
		t.Errorf("an unreadable file: %v", err)
	}
}

// Only who may change ids gets a credential, and only who must have one needs it.
func TestIdentity(t *testing.T) {
	program := called(t, "identity")
	run := func(user string, argv ...string) string {
		cmd := exec.Command(argv[0], append(argv[1:], program, user)...)
		if len(argv) == 1 {
			cmd = exec.Command(program, user)
		}
		if argv[0] == "nobody" {
			cmd = asNobody(t, t.TempDir(), cmd)
		}
		// Not stderr: a nobody can't write what is measured of the coverage.
		out, err := cmd.Output()
		if err != nil {
			return fmt.Sprint(err, " ", string(out))
		}
		return string(out)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	if got := run("1234:5", "root"); !strings.HasPrefix(got, "&{Uid:1234 Gid:5 Groups:[5] NoSetGroups:false} 1234 /\n<nil>") {
		t.Errorf("root: %s", got)
	}
	if got := run("65534:65534", "nobody"); !strings.HasPrefix(got, "<nil> ") || !strings.HasSuffix(got, "\n<nil>\n") {
		t.Errorf("nobody, as itself: %s", got)
	}
	const cannot = "--user: cannot become uid 1234, gid 1234: evermore is uid 65534, gid 65534, without the capabilities SETUID and SETGID\n"
	if got := run("1234", "nobody"); got != cannot {
		t.Errorf("nobody, as another: %s", got)
	}
	if got := run("65534:0", "nobody"); !strings.HasPrefix(got, "--user: cannot become uid 65534, gid 0") {
		t.Errorf("nobody, with another group: %s", got)
	}
	// A root without capabilities, and one of a user namespace.
	if got := run("1234", "setpriv", "--bounding-set=-all", "--inh-caps=-all"); !strings.HasPrefix(got, "--user: cannot become uid 1234") {
		if _, err := exec.LookPath("setpriv"); err != nil {
			missing(t, "setpriv", err)
		}
		t.Errorf("root without capabilities: %s", got)
	}
	if err := exec.Command("unshare", "--user", "--map-root-user", "true").Run(); err != nil {
		missing(t, "user namespaces", err)
	}
	if got := run("0:0", "unshare", "--user", "--map-root-user"); !strings.HasPrefix(got, "&{Uid:0 Gid:0 Groups:[0] NoSetGroups:true}") {
		t.Errorf("a user namespace: %s", got)
	}
}
