package watch

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// gathered runs the test with a gather whose changes are told with the time that
// has passed.
func gathered(t *testing.T, test func(paths chan<- string, changes <-chan Change)) {
	synctest.Test(t, func(*testing.T) {
		paths, changes := make(chan string), make(chan Change)
		go gather(paths, changes)
		test(paths, changes)
		close(paths)
		for range changes {
			t.Error("a change was told after the end")
		}
	})
}

func TestGatherTellsOneChangeWhenItIsQuiet(t *testing.T) {
	gathered(t, func(paths chan<- string, changes <-chan Change) {
		begin := time.Now()
		for _, path := range []string{"/a", "/b", "/a"} {
			paths <- path
			time.Sleep(quiet - 1)
		}
		if c := <-changes; c != (Change{"/a", 2}) {
			t.Errorf("%+v was told", c)
		}
		if took := time.Since(begin); took != 3*quiet-2 {
			t.Errorf("told after %v", took)
		}
		paths <- "/c"
		if c := <-changes; c != (Change{"/c", 1}) {
			t.Errorf("%+v was told", c)
		}
	})
}

func TestGatherIsNotStarvedByConstantChanges(t *testing.T) {
	gathered(t, func(paths chan<- string, changes <-chan Change) {
		begin := time.Now()
		next := time.NewTicker(quiet / 2)
		defer next.Stop()
		for {
			select {
			case <-next.C:
				paths <- "/log"
				continue
			case c := <-changes:
				if c != (Change{"/log", 1}) {
					t.Errorf("%+v was told", c)
				}
			}
			break
		}
		if took := time.Since(begin); took != quiet/2+longest {
			t.Errorf("told after %v", took)
		}
	})
}

func TestGatherGoesOnWhileTheCallbackIsBusy(t *testing.T) {
	gathered(t, func(paths chan<- string, changes <-chan Change) {
		const n = 100
		for i := range n {
			paths <- fmt.Sprint("/", i)
			time.Sleep(quiet)
		}
		if c := <-changes; c != (Change{"/0", n}) {
			t.Errorf("%+v was told", c)
		}
		time.Sleep(time.Minute)
		select {
		case c := <-changes:
			t.Errorf("%+v was told, of nothing", c)
		default:
		}
	})
}
