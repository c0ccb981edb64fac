package watch

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// poller sees changes by looking again and again.
type poller struct {
	view
	last, now map[string]stamp
	entered   map[inode]bool // the folders of this look: symlinks may lead there again
	fresh     bool           // rules differ from the last look: so may what is there
}

// stamp is what differs when a file was changed. A folder changes by what is in
// it, so only which one it is counts.
type stamp struct {
	id          inode
	size, mtime int64 // mtime in nanoseconds
}

func stampOf(fi fs.FileInfo) stamp {
	if fi.IsDir() {
		return stamp{id: inodeOf(fi)}
	}
	return stamp{id: inodeOf(fi), size: fi.Size(), mtime: fi.ModTime().UnixNano()}
}

// run looks until the context ends, with a pause after each look.
func (p *poller) run(ready chan<- struct{}, pause time.Duration) {
	p.look()
	close(ready)
	next := time.NewTimer(pause)
	defer next.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-next.C:
		}
		p.last = p.now
		p.look()
		if p.ctx.Err() == nil {
			p.compare()
		}
		next.Reset(pause)
	}
}

// look takes the stamps of all that is not ignored.
func (p *poller) look() {
	p.now = make(map[string]stamp, len(p.last))
	p.entered = map[inode]bool{}
	p.fresh = false
	for _, r := range p.roots {
		fi, err := os.Stat(r.path)
		if err == nil && !fi.IsDir() {
			err = syscall.ENOTDIR
		}
		if missing(err) {
			p.absent(r, err)
			continue
		}
		r.absent = false
		if err != nil {
			p.keep(r.path, err)
			continue
		}
		if _, known := p.last[r.path]; p.load(r) && known {
			p.fresh = true
		}
		p.now[r.path] = stampOf(fi)
		p.enter(r, r.path, fi)
	}
}

// enter looks at what is in a folder.
func (p *poller) enter(r *root, dir string, fi fs.FileInfo) {
	id := inodeOf(fi)
	if p.entered[id] || p.ctx.Err() != nil {
		return
	}
	p.entered[id] = true
	entries, err := os.ReadDir(dir)
	if err != nil {
		p.keep(dir, err)
	} else {
		delete(p.refused, dir)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		link := e.Type()&fs.ModeSymlink != 0
		follow := link && r.follows(path)
		if p.ignored(r, path, e.IsDir() || follow) {
			continue
		}
		fi, err := e.Info()
		if link && e.Name() != dataLink {
			if target, err := os.Stat(path); err == nil && (follow || !target.IsDir()) {
				fi = target
			}
		}
		if err != nil {
			p.keep(path, err)
			continue
		}
		p.now[path] = stampOf(fi)
		if fi.IsDir() {
			p.enter(r, path, fi)
		}
	}
}

// keep takes what cannot be seen for unchanged, unless it is gone: a network
// file system that fails for a moment is no change.
func (p *poller) keep(path string, err error) {
	if missing(err) {
		return
	}
	p.refuse(path, err)
	for known, s := range p.last {
		if known == path || strings.HasPrefix(known, path+"/") {
			p.now[known] = s
		}
	}
}

// compare tells what differs from the last look. Where rules differ, what came
// and went may be their doing and is not told.
func (p *poller) compare() {
	var changed []string
	for path, s := range p.now {
		if before, known := p.last[path]; known && s != before || !known && !p.fresh {
			changed = append(changed, path)
		}
	}
	for path := range p.last {
		if _, there := p.now[path]; !there && !p.fresh {
			changed = append(changed, path)
		}
	}
	slices.Sort(changed)
	for _, path := range changed {
		p.found(path)
	}
}
