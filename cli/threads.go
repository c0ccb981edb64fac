package cli

import (
	"runtime"
	"sync"
	"syscall"
)

const (
	// processors is how many threads run Go code at a time. A supervisor needs
	// no more, however large its host is, and each costs memory.
	processors = 2
	// spareThreads is how many threads there are from the start: for these, for
	// system calls that last (a log whose reader is stuck, a slow disk), and for
	// the runtime itself.
	spareThreads = 8
)

// keepThreads has the Go runtime make the threads that it may need later, while
// it can. The runtime ends the program when it wants a thread and the kernel has
// none to give: an app that has used up the pids of its container must not end
// its PID 1. Threads that are there are used again and never ended.
func keepThreads() {
	if runtime.GOMAXPROCS(0) > processors {
		runtime.GOMAXPROCS(processors)
	}
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return
	}
	// Each of these is held up in a system call until the pipe is closed, and
	// so holds a thread.
	var holding, held sync.WaitGroup
	holding.Add(spareThreads)
	for range spareThreads {
		held.Go(func() {
			var b [1]byte
			holding.Done()
			_, _ = syscall.Read(p[0], b[:])
		})
	}
	go func() {
		holding.Wait()
		syscall.Close(p[1])
		held.Wait()
		syscall.Close(p[0])
	}()
}
