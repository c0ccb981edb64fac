package cli

import "golang.org/x/sys/unix"

// terminalModes are the modes of the terminal that evermore shares with the app,
// as they were before the app's first start; nil: there is none.
type terminalModes struct{ found unix.Termios }

// modesOf gives the modes of the terminal on a descriptor.
func modesOf(fd int) *terminalModes {
	found, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil
	}
	return &terminalModes{*found}
}

// restore undoes what a dead app has left: killed while it read keys, it left ^C
// a key as any other, and what is typed unseen. In the background it does nothing:
// there the kernel would stop evermore for it (SIGTTOU).
func (m *terminalModes) restore(fd int) {
	if m != nil && isForeground(fd) {
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, &m.found) // a terminal that hung up has no modes
	}
}
