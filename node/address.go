package node

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Address is where an app listens: a TCP port, or a unix socket by its path. It
// is comparable.
type Address struct {
	// Host is an IP address; empty: all of them, as node listens without a host.
	Host string `json:"host,omitempty"`
	Port uint16 `json:"port,omitempty"`
	// Path is absolute.
	Path string `json:"path,omitempty"`
}

// longestPath is what an address of a unix socket has room for, see unix(7).
const longestPath = 107

// ParseAddress reads PORT, HOST:PORT, [::1]:PORT or unix:PATH. A relative path is
// one of dir.
func ParseAddress(text, dir string) (Address, error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if path != "" && !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		switch {
		case path == "" || strings.ContainsRune(path, 0):
			return Address{}, fmt.Errorf("%q names no socket: write unix:/run/app.sock", text)
		case len(path) > longestPath:
			return Address{}, fmt.Errorf("%q is too long for a socket: its path may have %d bytes", text, longestPath)
		}
		return Address{Path: filepath.Clean(path)}, nil
	}
	host, digits := "", text
	if strings.Contains(text, ":") {
		var err error
		if host, digits, err = net.SplitHostPort(text); err != nil {
			return Address{}, fmt.Errorf("%q is not an address: write 3000, 127.0.0.1:3000, [::1]:3000 or unix:/run/app.sock", text)
		}
	}
	port, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || port == 0 {
		return Address{}, fmt.Errorf("%q has no port from 1 to 65535: write 3000, 127.0.0.1:3000, [::1]:3000 or unix:/run/app.sock", text)
	}
	if host != "" {
		ip, err := netip.ParseAddr(host)
		if err != nil || ip.Zone() != "" {
			return Address{}, fmt.Errorf("%q does not begin with an IP address: write 127.0.0.1:%d or [::1]:%d", text, port, port)
		}
		host = ip.String()
	}
	return Address{Host: host, Port: uint16(port)}, nil
}

// sound gives an address that a process has told as ParseAddress would; ok is false
// where nobody can listen.
func (a Address) sound() (sound Address, ok bool) {
	if a.Path != "" {
		ok = a.Host == "" && a.Port == 0 && filepath.IsAbs(a.Path) && len(a.Path) <= longestPath && !strings.ContainsRune(a.Path, 0)
		return Address{Path: filepath.Clean(a.Path)}, ok
	}
	if a.Host != "" {
		ip, err := netip.ParseAddr(a.Host)
		if err != nil || len(ip.Zone()) > unix.IFNAMSIZ {
			return Address{}, false
		}
		a.Host = ip.String()
	}
	return a, a.Port != 0
}

// String is what ParseAddress reads.
func (a Address) String() string {
	port := strconv.Itoa(int(a.Port))
	switch {
	case a.Path != "":
		return "unix:" + a.Path
	case a.Host == "":
		return port
	}
	return net.JoinHostPort(a.Host, port)
}
