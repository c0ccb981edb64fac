package reaper

import (
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// asUser calls f with the file system identity of the user (setfsuid(2)), which
// belongs to the thread alone.
func asUser(u *syscall.Credential, f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Both calls give the identity before and tell no error; asking for -1
	// changes nothing.
	gid := setfs(unix.SYS_SETFSGID, uintptr(u.Gid))
	uid := setfs(unix.SYS_SETFSUID, uintptr(u.Uid))
	defer func() {
		setfs(unix.SYS_SETFSUID, uid)
		setfs(unix.SYS_SETFSGID, gid)
	}()
	f()
}

func setfs(call, id uintptr) uintptr {
	before, _, _ := unix.RawSyscall(call, id, 0, 0)
	return before
}
