package cli

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// What was mapped for the start is given back, and the program goes on.
func TestTrim(t *testing.T) {
	before := residentFile(t)
	trim()
	if after := residentFile(t); after >= before {
		t.Errorf("%d kB of files before, %d kB after", before, after)
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
