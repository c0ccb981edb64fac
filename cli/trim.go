package cli

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// trim gives back the pages of the program that only the start needed. They are
// clean and stay in the kernel's page cache: what is touched again is mapped again
// (madvise(2), MADV_DONTNEED on a private mapping of a file).
func trim() {
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
