package main

import "os"

// measureSize: the bytes of the binary, in MB of a million.
func measureSize(l *lab) {
	for _, p := range l.peers {
		if p.program == "" || !p.native {
			continue
		}
		is, err := os.Stat(p.program)
		if err != nil {
			l.fail("size", p, err)
			continue
		}
		l.keep("size", p, float64(is.Size())/1e6)
	}
}
