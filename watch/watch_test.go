package watch

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestWhatChanges(t *testing.T) {
	for name, change := range map[string]func(t testing.TB, file string){
		"written":   write,
		"truncated": func(t testing.TB, file string) { must(t, os.Truncate(file, 0)) },
		"removed":   func(t testing.TB, file string) { must(t, os.Remove(file)) },
		"moved out": func(t testing.TB, file string) { must(t, os.Rename(file, filepath.Join(inMemory(t), "out"))) },
		"replaced by a folder": func(t testing.TB, file string) {
			must(t, os.Remove(file))
			must(t, os.Mkdir(file, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, o Options, dir string) {
				file := filepath.Join(dir, "deep", "app.js")
				write(t, file)
				w := watch(t, o)
				change(t, file)
				w.expect(file)
			})
		})
	}
}

func TestWhatComes(t *testing.T) {
	for name, come := range map[string]func(t testing.TB, path string){
		"file":   write,
		"folder": mkdir,
		"pipe":   func(t testing.TB, path string) { must(t, syscall.Mkfifo(path, 0o600)) },
		"link":   func(t testing.TB, path string) { must(t, os.Symlink("nowhere", path)) },
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, o Options, dir string) {
				w := watch(t, o)
				path := filepath.Join(dir, "new")
				come(t, path)
				w.expect(path)
				must(t, os.Remove(path))
				w.expect(path)
			})
		})
	}
}

func TestChmodAndReadingAreNoChange(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		file, other := filepath.Join(dir, "app.js"), filepath.Join(dir, "other.js")
		write(t, file)
		write(t, other)
		must(t, os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)))
		w := watch(t, o)
		must(t, os.Chmod(file, 0o755))
		must(t, os.Chmod(dir, 0o755))
		if _, err := os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		write(t, other)
		w.expect(other)
	})
}

// As touch(1) on a file that is there.
func TestTouchIsAChange(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		file := filepath.Join(dir, "app.js")
		write(t, file)
		must(t, os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)))
		w := watch(t, o)
		now := time.Now()
		must(t, os.Chtimes(file, now, now))
		w.expect(file)
	})
}

func TestAtomicSaveIsOneChange(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		file, temp := filepath.Join(dir, "app.js"), filepath.Join(dir, ".app.js.swp")
		write(t, file)
		w := watch(t, o)
		for range 3 {
			write(t, temp)
			must(t, os.Rename(temp, file))
			w.expect(file)
		}
		write(t, file)
		w.expect(file)
	})
}

func TestManyChangesAreOne(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		a, b := filepath.Join(dir, "a.js"), filepath.Join(dir, "b.js")
		write(t, a)
		w := watch(t, o)
		must(t, os.Rename(a, b))
		if c := w.next(); c != (Change{a, 2}) {
			t.Errorf("%+v was told", c)
		}
	})
}

func TestDefaultIgnores(t *testing.T) {
	ignored := []string{"node_modules/x/index.js", ".git/HEAD", ".app.js.swp", "src/.cache/x"}
	both(t, func(t *testing.T, o Options, dir string) {
		write(t, filepath.Join(dir, "src/a.js"))
		w := watch(t, o)
		for _, path := range ignored {
			write(t, filepath.Join(dir, path))
		}
		write(t, filepath.Join(dir, "src/a.js"))
		w.expect(filepath.Join(dir, "src/a.js"))
	})
	t.Run("all", func(t *testing.T) {
		both(t, func(t *testing.T, o Options, dir string) {
			o.All = true
			o.Ignore = []string{".git"}
			for _, path := range ignored {
				write(t, filepath.Join(dir, path))
			}
			w := watch(t, o)
			for _, path := range ignored {
				write(t, filepath.Join(dir, path))
				if path != ".git/HEAD" {
					w.expect(filepath.Join(dir, path))
				}
			}
		})
	})
}

func TestIgnoredFolderComesAndGoes(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		o.Ignore = []string{"tmp/", "*.log"}
		w := watch(t, o)
		file := filepath.Join(dir, "app.js")
		write(t, filepath.Join(dir, "tmp/a"))
		write(t, filepath.Join(dir, "app.log"))
		write(t, file)
		w.expect(file)
		must(t, os.RemoveAll(filepath.Join(dir, "tmp")))
		write(t, file)
		w.expect(file)
	})
}

func TestFilesNeverTrigger(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		link := filepath.Join(t.TempDir(), "link")
		must(t, os.Symlink(dir, link))
		// One named as it is watched, one by another path.
		o.Files = []string{filepath.Join(dir, "logs/out.txt"), filepath.Join(link, "app.num")}
		mkdir(t, filepath.Join(dir, "logs"))
		w := watch(t, o)
		write(t, filepath.Join(dir, "logs/out.txt"))
		write(t, filepath.Join(dir, "app.num"))
		other := filepath.Join(dir, "other/app.num")
		mkdir(t, filepath.Dir(other))
		w.expect(filepath.Dir(other))
		write(t, other)
		w.expect(other)
	})
}

func TestForeverignore(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		ignore := filepath.Join(dir, ".foreverignore")
		must(t, os.WriteFile(ignore, []byte("# views\nviews/\n"), 0o600))
		file, view := filepath.Join(dir, "app.js"), filepath.Join(dir, "views/index.html")
		write(t, view)
		write(t, file)
		w := watch(t, o)
		write(t, view)
		write(t, file)
		w.expect(file)

		// A change of it is none of the app, and what it brings back neither.
		set := func(rules string) {
			must(t, os.WriteFile(ignore, []byte(rules), 0o600))
			if n := w.rest(); n != 0 {
				t.Errorf("%d paths were told to have changed", n)
			}
		}
		set("app.js")
		write(t, file)
		write(t, view)
		w.expect(view)

		set("views/\n[a\n")
		w.warning("[a", ignore)
		write(t, view)
		write(t, file)
		w.expect(file)

		must(t, os.Remove(ignore))
		w.rest()
		write(t, view)
		w.expect(view)
	})
}

func TestForeverignoreThatCannotBeRead(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		must(t, os.Mkdir(filepath.Join(dir, ".foreverignore"), 0o700))
		w := watch(t, o)
		w.warning(".foreverignore", "is a directory")
		write(t, filepath.Join(dir, "app.js"))
		w.expect(filepath.Join(dir, "app.js"))
	})
}

// configMap is what the kubelet makes: atomic_writer.go.
type configMap struct{ dir string }

func (m configMap) write(t *testing.T, version string) {
	t.Helper()
	old, _ := os.Readlink(filepath.Join(m.dir, "..data"))
	write(t, filepath.Join(m.dir, version, "app.yaml"))
	write(t, filepath.Join(m.dir, version, "sub", "more.yaml"))
	must(t, os.Symlink(version, filepath.Join(m.dir, "..data_tmp")))
	must(t, os.Rename(filepath.Join(m.dir, "..data_tmp"), filepath.Join(m.dir, "..data")))
	if old != "" {
		must(t, os.RemoveAll(filepath.Join(m.dir, old)))
		return
	}
	for _, name := range []string{"app.yaml", "sub"} {
		must(t, os.Symlink(filepath.Join("..data", name), filepath.Join(m.dir, name)))
	}
}

// A mounted ConfigMap or Secret changes by one swap of a symlink, again and again.
func TestConfigMap(t *testing.T) {
	for _, all := range []bool{false, true} {
		name := "default"
		if all {
			name = "all"
		}
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, o Options, dir string) {
				o.All = all
				m := configMap{filepath.Join(dir, "config")}
				m.write(t, "..2026_01_01")
				w := watch(t, o)
				for _, version := range []string{"..2026_01_02", "..2026_01_03", "..2026_01_04"} {
					m.write(t, version)
					if c := w.next(); !strings.HasPrefix(c.Path, m.dir) {
						t.Fatalf("%+v was told", c)
					}
					write(t, filepath.Join(dir, "app.js"))
					w.expect(filepath.Join(dir, "app.js"))
				}
			})
		})
	}
}

func TestSymlinks(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		outside := t.TempDir()
		write(t, filepath.Join(outside, "lib/x.js"))
		must(t, os.Symlink(dir, filepath.Join(outside, "lib/back")))
		mkdir(t, filepath.Join(dir, "a"))
		for name, target := range map[string]string{
			"lib":     filepath.Join(outside, "lib"),
			"lib2":    filepath.Join(outside, "lib"),
			"self":    ".",
			"up":      "../..",
			"root":    "/",
			"a/loop":  "../a",
			"z":       "a",
			"nowhere": "nothing",
			"ownself": "ownself",
		} {
			must(t, os.Symlink(target, filepath.Join(dir, name)))
		}
		w := watch(t, o)
		write(t, filepath.Join(outside, "lib/x.js"))
		lib := w.next()
		if filepath.Base(lib.Path) != "x.js" || lib.Count != 1 {
			t.Fatalf("%+v was told", lib)
		}
		write(t, filepath.Join(dir, "a/x.js"))
		w.expect(filepath.Join(dir, "a/x.js"))
		// The other link takes over.
		must(t, os.Remove(filepath.Dir(lib.Path)))
		w.rest()
		write(t, filepath.Join(outside, "lib/x.js"))
		if c := w.next(); filepath.Base(c.Path) != "x.js" || c.Path == lib.Path {
			t.Fatalf("%+v was told", c)
		}
	})
}

func TestSwitchedSymlink(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		releases := t.TempDir()
		link := filepath.Join(dir, "current")
		for _, version := range []string{"1", "2"} {
			write(t, filepath.Join(releases, version, "app.js"))
		}
		must(t, os.Symlink(filepath.Join(releases, "1"), link))
		w := watch(t, o)
		must(t, os.Symlink(filepath.Join(releases, "2"), link+".new"))
		must(t, os.Rename(link+".new", link))
		w.next()
		write(t, filepath.Join(releases, "2", "app.js"))
		w.expect(filepath.Join(link, "app.js"))
		write(t, filepath.Join(releases, "1", "app.js"))
		write(t, filepath.Join(dir, "last"))
		w.expect(filepath.Join(dir, "last"))
	})
}

// The folder to watch may itself be the symlink that a deployment switches.
func TestSwitchedRoot(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		link := filepath.Join(dir, "current")
		for _, version := range []string{"1", "2"} {
			write(t, filepath.Join(dir, version, "app.js"))
		}
		must(t, os.Symlink("1", link))
		o.Dirs = []string{link}
		w := watch(t, o)
		must(t, os.Symlink("2", link+".new"))
		must(t, os.Rename(link+".new", link))
		if c := w.next(); c.Path != link {
			t.Fatalf("%+v was told", c)
		}
		write(t, filepath.Join(dir, "1", "app.js"))
		write(t, filepath.Join(dir, "2", "app.js"))
		w.expect(filepath.Join(link, "app.js"))
	})
}

func TestRootIsRemovedAndComesBack(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		root := filepath.Join(dir, "srv/app")
		o.Dirs = []string{root, filepath.Join(dir, "other")}
		write(t, filepath.Join(root, "app.js"))
		write(t, filepath.Join(dir, "other/x.js"))
		w := watch(t, o)
		for range 2 {
			must(t, os.RemoveAll(filepath.Dir(root)))
			w.warning(root, "no such file or directory")
			w.rest()
			write(t, filepath.Join(dir, "other/x.js"))
			w.expect(filepath.Join(dir, "other/x.js"))
			write(t, filepath.Join(dir, "srv/neighbour"))
			write(t, filepath.Join(root, "app.js"))
			if c := w.next(); c.Path != root {
				t.Fatalf("%+v was told", c)
			}
			w.eventually(filepath.Join(root, "app.js"))
		}
	})
}

func TestRootThatIsNoFolderYet(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		root := filepath.Join(dir, "file/app")
		write(t, filepath.Dir(root))
		o.Dirs = []string{root}
		w := watch(t, o)
		w.warning(root, "not a directory")
		must(t, os.Remove(filepath.Dir(root)))
		write(t, filepath.Join(root, "app.js"))
		if c := w.next(); c.Path != root {
			t.Fatalf("%+v was told", c)
		}
	})
}

func TestRootsWithinEachOther(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		link := filepath.Join(t.TempDir(), "link")
		must(t, os.Symlink(dir, link))
		// The second is ignored as part of the first, but asked for.
		src := filepath.Join(dir, ".src")
		o.Dirs = []string{dir, src, dir, link}
		write(t, filepath.Join(src, "a.js"))
		w := watch(t, o)
		write(t, filepath.Join(src, "a.js"))
		w.expect(filepath.Join(src, "a.js"))
		write(t, filepath.Join(dir, "b.js"))
		w.expect(filepath.Join(dir, "b.js"))
	})
}

func TestFolderThatCannotBeRead(t *testing.T) {
	isolate(t, 1000, func() {
		both(t, func(t *testing.T, o Options, dir string) {
			secret, file := filepath.Join(dir, "secret"), filepath.Join(dir, "src/app.js")
			write(t, filepath.Join(secret, "x"))
			write(t, file)
			must(t, os.Chmod(secret, 0))
			t.Cleanup(func() { os.Chmod(secret, 0o700) })
			w := watch(t, o)
			w.warning(secret, "permission denied")
			write(t, file)
			w.expect(file)

			must(t, os.Chmod(secret, 0o700))
			w.eventually(filepath.Join(secret, "x"))
		})
	})
}

func TestCallbackThatBlocksLosesNothing(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		told, goOn := make(chan Change), make(chan struct{})
		w, err := New(o, func(c Change) {
			told <- c
			<-goOn
		}, func(err error) { t.Error(err) })
		must(t, err)
		<-w.Ready()
		a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
		write(t, a)
		if got := <-told; got != (Change{a, 1}) {
			t.Errorf("%+v was told", got)
		}
		write(t, b)
		write(t, c)
		goOn <- struct{}{}
		if got := <-told; got != (Change{b, 2}) {
			t.Errorf("%+v was told", got)
		}

		closed := make(chan struct{})
		go func() {
			w.Close()
			close(closed)
		}()
		select {
		case <-closed:
			t.Error("Close returned while the callback ran")
		case <-time.After(quiet):
		}
		goOn <- struct{}{}
		<-closed
	})
}

func TestCloseWhileScanning(t *testing.T) {
	both(t, func(t *testing.T, o Options, dir string) {
		write(t, filepath.Join(dir, "a/b/c"))
		w := begin(t, o)
		w.w.Close()
		w.w.Close()
	})
}
