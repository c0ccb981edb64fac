package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
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
)

var kinds = [...]string{"", "its first instruction", "its end", "a signal", "the last orphan", "its first write"}

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
	if err := r.from.SetReadDeadline(time.Now().Add(within)); err != nil {
		return record{}, err
	}
	var bytes [24]byte
	for {
		if _, err := io.ReadFull(r.from, bytes[:]); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return record{}, fmt.Errorf("the child did not report %s within %v", kinds[kind], within)
			}
			return record{}, err
		}
		got := record{
			Kind:  int64(binary.NativeEndian.Uint64(bytes[0:])),
			At:    int64(binary.NativeEndian.Uint64(bytes[8:])),
			Since: int64(binary.NativeEndian.Uint64(bytes[16:])),
		}
		if got.Kind == kind {
			return got, nil
		}
	}
}
