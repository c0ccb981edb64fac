package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"
)

// The kinds of a record, as in programs/bench.h.
const (
	began int64 = iota + 1
	ends
	handled
	reaped
	writes
	returned
	listens
	failed // At is the exit code
)

var kinds = [...]string{
	"", "its first instruction", "its end", "a signal", "the last orphan", "its first write", "the end of the command",
	"its listening",
}

// A record is what a measured program reports; At and Since are nanoseconds of
// CLOCK_MONOTONIC.
type record struct{ Kind, At, Since int64 }

// A report is the FIFO that the programs of one session write records to.
type report struct{ from *os.File }

// openReport opens it for both directions, so that a reader sees no end while
// the next child has not come yet.
func openReport(path string) (*report, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the report: %w", err)
	}
	return &report{from: f}, nil
}

func (r *report) close() { r.from.Close() }

// next waits for the next record of a kind and drops those of others.
func (r *report) next(kind int64, within time.Duration) (record, error) {
	got, err := r.each(within, kind)
	return got[kind], err
}

// each waits until there is a record of each of these kinds, in whatever order
// they come, and drops those of others. A command that failed is an error.
func (r *report) each(within time.Duration, of ...int64) (map[int64]record, error) {
	if err := r.from.SetReadDeadline(time.Now().Add(within)); err != nil {
		return nil, err
	}
	got := make(map[int64]record)
	missing := slices.Clone(of)
	var bytes [24]byte
	for len(missing) > 0 {
		if _, err := io.ReadFull(r.from, bytes[:]); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil, fmt.Errorf("the child did not report %s within %v", kinds[missing[0]], within)
			}
			return nil, err
		}
		one := record{
			Kind:  int64(binary.NativeEndian.Uint64(bytes[0:])),
			At:    int64(binary.NativeEndian.Uint64(bytes[8:])),
			Since: int64(binary.NativeEndian.Uint64(bytes[16:])),
		}
		if one.Kind == failed {
			return nil, fmt.Errorf("the command ended with code %d", one.At)
		}
		if i := slices.Index(missing, one.Kind); i >= 0 {
			got[one.Kind] = one
			missing = slices.Delete(missing, i, i+1)
		}
	}
	return got, nil
}
