// Evermore keeps a Node.js process alive: as PID 1 of a container, and on a host
// as the successor of forever.
//
// The runtime would read the limits of its cgroup before anything else, and again
// and again: evermore runs on two threads whatever they are.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"os"

	"evermore/cli"
	"evermore/early"
)

func main() { os.Exit(cli.Main(os.Args, early.First)) }
