// Lab is what the end-to-end tests run beside evermore and below it, where a
// shell or node can't do it.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
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

// notify sends each argument as one message of sd_notify(3).
func notify(messages []string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return fmt.Errorf("NOTIFY_SOCKET is not set")
	}
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, message := range messages {
		if _, err := conn.Write([]byte(message)); err != nil {
			return err
		}
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
