// Package nearest finds what was probably meant by a misspelt name.
package nearest

import "strings"

// Nearest gives that of the names which was probably meant by name, "" when none
// is near: it differs by one or two letters, or begins with name. The first of
// equally near ones is taken.
func Nearest(name string, names []string) string {
	best, least := "", 1+min(2, len(name)/2)
	for _, n := range names {
		d := distance(name, n)
		if len(name) >= 3 && strings.HasPrefix(n, name) {
			d = min(d, 1)
		}
		if d < least {
			best, least = n, d
		}
	}
	return best
}

// distance is the Levenshtein distance, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
