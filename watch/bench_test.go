package watch

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkReady is the time until a tree of 50,000 files in 500 folders is
// watched, beside that of a bare walk of it.
func BenchmarkReady(b *testing.B) {
	dir := b.TempDir()
	for i := range 500 {
		sub := filepath.Join(dir, fmt.Sprint(i%20), fmt.Sprint(i))
		mkdir(b, sub)
		for j := range 100 {
			must(b, os.WriteFile(filepath.Join(sub, fmt.Sprint(j, ".js")), nil, 0o600))
		}
	}
	for _, bench := range []struct {
		name string
		poll time.Duration
	}{{"inotify", 0}, {"poll", time.Hour}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w, err := New(Options{Dirs: []string{dir}, Poll: bench.poll}, nil, func(err error) { b.Error(err) })
				must(b, err)
				<-w.Ready()
				b.StopTimer()
				w.Close()
				b.StartTimer()
			}
		})
	}
	b.Run("walk", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			must(b, filepath.WalkDir(dir, func(string, fs.DirEntry, error) error { return nil }))
		}
	})
}
