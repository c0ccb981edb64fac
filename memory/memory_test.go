package memory

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What was mapped for the start is given back, and the program goes on.
func TestDropPages(t *testing.T) {
	before := residentFile(t)
	DropPages()
	if after := residentFile(t); after >= before {
		t.Errorf("%d kB of files before, %d kB after", before, after)
	}
}

var sink []byte

// Work leaves neither garbage nor pages behind.
func TestTrimmer(t *testing.T) {
	trimmer := NewTrimmer()
	for range 100 {
		sink = make([]byte, 64<<10)
		trimmer.Later()
	}
	sink = nil
	eventually(t, "the garbage is freed", func() bool {
		return allocated()-trimmer.freedAt.Load() < heapAbove && !trimmer.freeing.Load()
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if before.HeapAlloc > after.HeapAlloc+1<<20 {
		t.Errorf("%d bytes of garbage were left", before.HeapAlloc-after.HeapAlloc)
	}
	// To look maps pages again.
	most := residentFile(t)
	trimmer.Later()
	eventually(t, "the pages are dropped", func() bool { return residentFile(t) < most })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// residentFile is RssFile of proc_pid_status(5), in kB.
func residentFile(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "\nRssFile:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
