package early

import (
	"runtime"
	"sync"
)

// spareThreads is how many threads there are beside the first and the runtime's
// own: for the two that run Go code, and for system calls that last, which are the
// writes of two streams and of the log to readers that are stuck. The rest is for
// the runtime, which takes a new thread where one is only just busy.
const spareThreads = 8

// KeepThreads has the Go runtime make the threads that it may need later, while it
// can. The runtime ends the program when it wants a thread and the kernel has none
// to give: an app that has used up the pids of its container must not end its
// PID 1. Threads that are there are used again and never ended.
func KeepThreads() {
	var locked sync.WaitGroup
	release := make(chan struct{})
	locked.Add(spareThreads)
	for range spareThreads {
		go func() {
			// A locked goroutine that waits keeps its thread from all others.
			// The first lock also makes the runtime's template thread.
			runtime.LockOSThread()
			locked.Done()
			<-release
			runtime.UnlockOSThread()
		}()
	}
	locked.Wait()
	close(release)
}
