package logs

import (
	"io"

	"golang.org/x/sys/unix"
)

// writeAll writes p to the descriptor and returns how many bytes it took.
//
// It is write(2) and not os.File: that one ends the process when fd 1 or 2 has
// lost its reader. And a descriptor may be non-blocking although nobody here
// made it so: O_NONBLOCK belongs to the open file description, which the app
// shares, and node sets it on its pipes.
func writeAll(fd int, p []byte) (int, error) {
	done, waited := 0, false
	for done < len(p) {
		n, err := unix.Write(fd, p[done:])
		switch {
		case err == nil && n == 0:
			return done, io.ErrShortWrite
		case err == nil:
			done += n
			waited = false
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			// A terminal with room for one byte calls itself writable, but
			// refuses a newline, which it would turn into two. Then poll(2)
			// does not wait and the pause keeps this from spinning.
			if waited {
				_, _ = unix.Poll(nil, 10)
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
			waited = true
		default:
			return done, err
		}
	}
	return done, nil
}
