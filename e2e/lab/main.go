// Lab is what the end-to-end tests run beside evermore and below it, where a
// shell or node can't do it.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("nothing to do")
	}
	switch args[0] {
	case "kill":
		return kill(args[1:])
	case "loopback":
		return loopback(args[1:])
	case "notify":
		return notify(args[1:])
	case "zombies":
		return zombies()
	}
	return fmt.Errorf("unknown: %q", args[0])
}

// kill sends signals, by their numbers, to the process whose pid comes first;
// "40x50" is fifty times signal 40.
func kill(args []string) error {
	if len(args) == 0 {
		return errors.New("no pid")
	}
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	for _, arg := range args[1:] {
		number, times, _ := strings.Cut(arg, "x")
		n, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		count := 1
		if times != "" {
			if count, err = strconv.Atoi(times); err != nil {
				return err
			}
		}
		for range count {
			if err := syscall.Kill(pid, syscall.Signal(n)); err != nil {
				return fmt.Errorf("signal %d: %w", n, err)
			}
		}
	}
	return nil
}

// loopback sets the loopback interface up, that a new network namespace has down,
// and becomes the command.
func loopback(argv []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("cannot set lo up: %w", err)
	}
	if len(argv) == 0 {
		return errors.New("no command")
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, argv, os.Environ())
}

// notify sends each argument as one message of sd_notify(3), and then waits as
// sd_notify_barrier(3) does: who receives them wants to know who sent them, and
// could not tell of a process that is gone.
func notify(messages []string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return errors.New("NOTIFY_SOCKET is not set")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	to := &unix.SockaddrUnix{Name: socket}
	for _, message := range messages {
		if err := unix.Sendto(fd, []byte(message), 0, to); err != nil {
			return err
		}
	}
	barrier, end, err := os.Pipe()
	if err != nil {
		return err
	}
	defer barrier.Close()
	err = unix.Sendmsg(fd, []byte("BARRIER=1"), unix.UnixRights(int(end.Fd())), to, 0)
	end.Close()
	if err != nil {
		return err
	}
	_ = barrier.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := barrier.Read(make([]byte, 1)); err != io.EOF {
		return fmt.Errorf("nobody lets the barrier go: %w", err)
	}
	return nil
}

// zombies makes a child that it does not reap, and another one at each SIGUSR1;
// it prints their pids.
func zombies() error {
	more := make(chan os.Signal, 1)
	signal.Notify(more, syscall.SIGUSR1)
	for ; ; <-more {
		pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
		if err != nil {
			return err
		}
		fmt.Println("zombie", pid)
	}
}
