package reaper

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Command is a process to start.
type Command struct {
	// Argv is the command and its arguments. Argv[0] without a slash is looked
	// up in the PATH of Env, as execvp(3) does.
	Argv []string
	// Env is the whole environment, as "name=value".
	Env []string
	// Dir is the working directory; empty: evermore's.
	Dir string
	// Files are the descriptors that become 0, 1, 2 and so on.
	Files []uintptr
	// User, when not nil, is whom the process runs as.
	User *syscall.Credential
	// NoNewPrivs sets PR_SET_NO_NEW_PRIVS (prctl(2)) before the exec.
	NoNewPrivs bool
	// OwnGroup makes the process the leader of a new process group.
	OwnGroup bool
	// EndGroup sends SIGTERM to what is left of the process's own group in the
	// moment in which the process is found dead, while its pid still keeps the
	// group's number from being used again.
	EndGroup bool
	// DieWithParent has the kernel kill the process when evermore dies
	// (PR_SET_PDEATHSIG). The kernel drops it at an exec that gains privilege.
	DieWithParent bool
}

// StartError says why a command could not be started.
type StartError struct {
	Name string // what was to be started
	What string // what could not be done to it
	Err  error
	// Exec says that the command itself is at fault (it is missing, or it can't
	// be executed); otherwise the system had no room for a new process.
	Exec bool
}

func (e *StartError) Error() string {
	return fmt.Sprintf("cannot %s %q: %v", e.What, e.Name, e.Err)
}

func (e *StartError) Unwrap() error { return e.Err }

// Code is the exit code that shells give to such a failure: 127 when the command
// was not found, else 126.
func (e *StartError) Code() int {
	if errors.Is(e.Err, syscall.ENOENT) || errors.Is(e.Err, syscall.ENOTDIR) {
		return 127
	}
	return 126
}

// start forks and executes the command; the caller holds the reaper's lock. It
// gives the pid and, where the kernel has them (Linux 5.2), a pidfd, else -1.
func (c *Command) start() (pid, pidfd int, err error) {
	fail := func(what, name string, exec bool, err error) (int, int, error) {
		return 0, -1, &StartError{Name: name, What: what, Err: err, Exec: exec}
	}
	if c.Dir != "" {
		// A missing directory would look like a missing command below.
		if err := enterable(c.Dir); err != nil {
			return fail("enter the working directory", c.Dir, true, err)
		}
	}
	path, err := c.lookPath()
	if err != nil {
		return fail("run", c.Argv[0], true, err)
	}
	pid, pidfd, err = c.forkExec(path, c.Argv)
	if errors.Is(err, syscall.ENOEXEC) {
		// As execvp(3): a file in no known format is a shell script.
		pid, pidfd, err = c.forkExec("/bin/sh", append([]string{"/bin/sh", path}, c.Argv[1:]...))
	}
	switch {
	case err == nil:
		return pid, pidfd, nil
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fail("start a process for", c.Argv[0], false, err)
	case c.User != nil && errors.Is(err, syscall.EPERM):
		return fail(fmt.Sprintf("run as uid %d, gid %d", c.User.Uid, c.User.Gid), c.Argv[0], true, err)
	case errors.Is(err, syscall.ENOENT):
		// The file was there a moment ago: what is missing is what its first
		// line names, or the dynamic loader.
		return fail("run", path, true, fmt.Errorf("its interpreter was not found: %w", err))
	}
	return fail("run", path, true, err)
}

func (c *Command) forkExec(path string, argv []string) (pid, pidfd int, err error) {
	pidfd = -1
	attr := &syscall.ProcAttr{
		Dir:   c.Dir,
		Env:   c.Env,
		Files: c.Files,
		Sys:   &syscall.SysProcAttr{Credential: c.User, Setpgid: c.OwnGroup, PidFD: &pidfd},
	}
	if c.DieWithParent {
		// PR_SET_PDEATHSIG is about the thread that forks. Go ends a thread only
		// when a goroutine that is locked to it returns, which none here does.
		attr.Sys.Pdeathsig = syscall.SIGKILL
	}
	// syscall.ForkExec, not os.StartProcess: that one forks a probe of its own.
	pid, err = syscall.ForkExec(path, argv, attr)
	if errors.Is(err, syscall.EINVAL) {
		// Linux before 5.2 ignores CLONE_PIDFD; gVisor and qemu-user refuse it.
		attr.Sys.PidFD = nil
		pid, err = syscall.ForkExec(path, argv, attr)
	}
	return pid, pidfd, err
}

// DistrolessNode is where Google's distroless images have node, which is no
// folder of their PATH:
// https://github.com/GoogleContainerTools/distroless/tree/main/nodejs
const DistrolessNode = "/nodejs/bin/node"

// lookPath finds the file that Argv[0] names, as execvp(3) does. A file that is
// there but can't be executed is remembered: EACCES tells more than ENOENT.
// The last place to look for node is DistrolessNode.
func (c *Command) lookPath() (string, error) {
	name := c.Argv[0]
	if name == "" {
		return "", syscall.ENOENT
	}
	if strings.Contains(name, "/") {
		return name, c.executable(name)
	}
	found := error(syscall.ENOENT)
	for _, dir := range strings.Split(c.path(), ":") {
		if dir == "" {
			dir = "."
		}
		path := dir + "/" + name
		err := c.executable(path)
		if err == nil {
			return path, nil
		}
		if errors.Is(err, syscall.EACCES) {
			found = err
		}
	}
	if name == "node" && c.executable(DistrolessNode) == nil {
		return DistrolessNode, nil
	}
	if errors.Is(found, syscall.ENOENT) {
		found = fmt.Errorf("it is not in the PATH: %w", found)
	}
	return "", found
}

// path is the PATH of the command's environment, or that of execvp(3) without one.
func (c *Command) path() string {
	for i := len(c.Env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(c.Env[i], "PATH="); ok {
			return v
		}
	}
	return "/usr/local/bin:/bin:/usr/bin"
}

// executable tells whether somebody may execute the file. Whether this user may
// is the kernel's to say, at the exec.
func (c *Command) executable(path string) error {
	if c.Dir != "" && !strings.HasPrefix(path, "/") {
		path = c.Dir + "/" + path
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Errorf("it is a directory: %w", syscall.EACCES)
	}
	if st.Mode&0o111 == 0 {
		return fmt.Errorf("it is not executable: %w", syscall.EACCES)
	}
	return nil
}

func enterable(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return syscall.ENOTDIR
	}
	return nil
}
