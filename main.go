// Evermore keeps a Node.js process alive: as PID 1 of a container, or on a host
// as forever does.
package main

import (
	"os"

	"evermore/cli"
)

func main() { os.Exit(cli.Main(os.Args)) }
