package logs

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// An app with a user and a folder of its own cannot lead root's evermore to
// another file.
func TestForeignFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root passes other users' folders")
	}
	base := t.TempDir()
	secret, theirs, mine := filepath.Join(base, "secret"), filepath.Join(base, "theirs"), filepath.Join(base, "mine")
	for _, dir := range []string{secret, theirs, mine} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, from string) {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(secret, "key"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	link(secret+"/key", theirs+"/file.log")
	link(secret, theirs+"/folder")
	link(secret, mine+"/folder")
	link(theirs, mine+"/way")
	if err := os.Chown(theirs, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	for path, ok := range map[string]bool{
		theirs + "/plain.log":       true,
		theirs + "/file.log":        false,
		theirs + "/folder/app.log":  false,
		mine + "/folder/app.log":    true, // root's own link
		mine + "/way/way.log":       true,
		mine + "/way/file.log":      false,
		theirs + "/../mine/app.log": true,
	} {
		f, err := OpenFile(path)
		if (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
		if !ok && err != nil && err != unix.ELOOP {
			t.Errorf("%s: got %v, want ELOOP", path, err)
		}
		if f != nil {
			f.Close()
		}
	}
	if text, err := os.ReadFile(filepath.Join(secret, "key")); err != nil || string(text) != "secret" {
		t.Errorf("the secret is %q, %v", text, err)
	}
}
