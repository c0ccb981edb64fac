// Lab is what the end-to-end tests run beside evermore and below it, where a
// shell or node can't do it.
package main

import (
	"fmt"
	"net"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("nothing to do")
	}
	switch args[0] {
	case "notify":
		return notify(args[1:])
	}
	return fmt.Errorf("unknown: %q", args[0])
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
