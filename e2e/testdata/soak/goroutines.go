package main

import (
	"net"
	"os"
	"runtime/pprof"
)

// The soak builds evermore with this file, so that it can see the goroutines:
// evermore itself shows them to nobody.
func init() {
	path := os.Getenv("SOAK_GOROUTINES")
	if path == "" {
		return
	}
	os.Unsetenv("SOAK_GOROUTINES")
	l, err := net.Listen("unix", path)
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				panic(err)
			}
			pprof.Lookup("goroutine").WriteTo(conn, 2)
			conn.Close()
		}
	}()
}
