// Package node is what only Node.js understands: its options in the environment.
package node

import "strings"

// optionsVariable holds options for every node that gets it, see
// https://nodejs.org/api/cli.html#node_optionsoptions.
const optionsVariable = "NODE_OPTIONS="

// WithOptions gives an environment whose NODE_OPTIONS begins with these options.
// Where they contradict what is there, that wins, since it comes later; so do
// options on node's own command line.
func WithOptions(env []string, options ...string) []string {
	options = append([]string(nil), options...)
	with := make([]string, 0, len(env)+1)
	for _, v := range env {
		if had, ok := strings.CutPrefix(v, optionsVariable); ok {
			if had != "" {
				options = append(options, had)
			}
			continue
		}
		with = append(with, v)
	}
	return append(with, optionsVariable+strings.Join(options, " "))
}

// mebibyte is what --max-old-space-size counts in.
const mebibyte = 1 << 20

// Node's memory beside the old space - its code, the young generation, buffers,
// stacks - is given a quarter of the limit, and leastRest at least: with less, a
// heap that fills up is killed by the kernel before V8 finds it full. leastHeap
// is what an app needs to start at all.
const (
	leastRest = 64 * mebibyte
	leastHeap = 32
)

// HeapLimit is the --max-old-space-size in MiB that fits into a limit of memory
// in bytes, so that V8 collects its garbage, and in the end reports a full heap,
// where the kernel would kill. ok is false where the limit leaves no room for a
// heap.
func HeapLimit(limit int64) (mib int64, ok bool) {
	mib = (limit - max(limit/4, leastRest)) / mebibyte
	return mib, mib >= leastHeap
}
