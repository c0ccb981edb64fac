package signals

import (
	"errors"
	"math/bits"
	"strings"
	"syscall"
)

// Set is a set of signals: bit n-1 is signal n, as in the kernel's sigset_t.
type Set uint64

// SetOf gives the set of some signals.
func SetOf(sigs ...syscall.Signal) Set {
	var set Set
	for _, s := range sigs {
		set = set.With(s)
	}
	return set
}

// ParseSet reads a list of signals: "TERM,INT".
func ParseSet(s string) (Set, error) {
	if s == "" {
		return 0, errors.New("no signal given: use a list such as TERM,INT")
	}
	var set Set
	for name := range strings.SplitSeq(s, ",") {
		sig, err := Parse(strings.TrimSpace(name))
		if err != nil {
			return 0, err
		}
		set = set.With(sig)
	}
	return set, nil
}

func bit(s syscall.Signal) Set {
	if s < 1 || s > rtMax {
		return 0
	}
	return 1 << (s - 1)
}

// Has tells whether s is in the set.
func (set Set) Has(s syscall.Signal) bool { return set&bit(s) != 0 }

// With gives the set that has s too. What is no signal changes nothing.
func (set Set) With(s syscall.Signal) Set { return set | bit(s) }

// Signals gives the signals of the set, the lowest number first.
func (set Set) Signals() []syscall.Signal {
	sigs := make([]syscall.Signal, 0, bits.OnesCount64(uint64(set)))
	for rest := uint64(set); rest != 0; rest &= rest - 1 {
		sigs = append(sigs, syscall.Signal(bits.TrailingZeros64(rest)+1))
	}
	return sigs
}

// String gives the names in the order of the numbers: "SIGINT,SIGTERM".
func (set Set) String() string {
	var names []string
	for _, s := range set.Signals() {
		names = append(names, Name(s))
	}
	return strings.Join(names, ",")
}
