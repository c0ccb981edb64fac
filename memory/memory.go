// Package memory keeps a supervisor small while it has nothing to do. Its whole
// heap is less than what Go lets garbage grow to before it looks (4 MiB), and most
// of what is mapped of its program was needed for a moment.
package memory

import (
	"os"
	"runtime/debug"
	rtmetrics "runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// heapAbove is about what half a scrape allocates, or seven probes.
	heapAbove = 128 << 10
	// heapPause lets an answer go out before garbage is collected, and keeps clients
	// that ask without end from making that, which takes a few milliseconds, a load.
	heapPause = 50 * time.Millisecond
	// quiet is how long nothing must have been asked for before pages are dropped.
	quiet = 500 * time.Millisecond
	// longQuiet is so for what a person asks of many supervisors again and again.
	longQuiet = time.Minute
)

// Trimmer gives memory back after work. Its methods may be called from any
// goroutine.
type Trimmer struct {
	freeing atomic.Bool // freeHeap is due
	freedAt atomic.Uint64
	pages   *time.Timer
}

// NewTrimmer gives one that has nothing to do.
func NewTrimmer() *Trimmer {
	t := &Trimmer{}
	t.pages = time.AfterFunc(time.Hour, t.rest)
	t.pages.Stop()
	return t
}

// Rest says that something was done which may be done by many supervisors at a
// time: they do nothing more before all is quiet.
func (t *Trimmer) Rest() { t.pages.Reset(longQuiet) }

// rest gives back what there is.
func (t *Trimmer) rest() {
	if t.beginFreeing() {
		t.freeHeap()
	}
	DropPages()
}

// Later says that something was done, and that nothing may follow.
func (t *Trimmer) Later() {
	t.pages.Reset(quiet)
	if t.beginFreeing() {
		time.AfterFunc(heapPause, t.freeHeap)
	}
}

// beginFreeing says that there is enough garbage, and that nobody else frees it.
func (t *Trimmer) beginFreeing() bool {
	return allocated()-t.freedAt.Load() >= heapAbove && t.freeing.CompareAndSwap(false, true)
}

func (t *Trimmer) freeHeap() {
	t.freedAt.Store(allocated()) // what is allocated meanwhile is for the next time
	debug.FreeOSMemory()
	t.freeing.Store(false)
	if t.beginFreeing() {
		time.AfterFunc(heapPause, t.freeHeap)
	}
}

// allocated is how many bytes of heap have ever been allocated.
func allocated() uint64 {
	sample := []rtmetrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	rtmetrics.Read(sample)
	return sample[0].Value.Uint64()
}

// DropPages unmaps the pages of the program that can't have changed. They stay in
// the kernel's page cache, and what is touched again is mapped again (madvise(2),
// MADV_DONTNEED on a private mapping of a file).
func DropPages() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for line := range strings.SplitSeq(string(maps), "\n") {
		// "00400000-00ad6000 r-xp 00000000 08:01 1234   /usr/bin/evermore", proc_pid_maps(5).
		// What can be written may differ from the file: it is left alone.
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasSuffix(line, " "+program) || f[1] != "r-xp" && f[1] != "r--p" {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		begin, errB := strconv.ParseUint(from, 16, 64)
		end, errE := strconv.ParseUint(to, 16, 64)
		if errB == nil && errE == nil && begin < end {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(begin), uintptr(end-begin), unix.MADV_DONTNEED)
		}
	}
}
