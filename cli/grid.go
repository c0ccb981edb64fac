package cli

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// grid is a table as forever writes it: cells are padded to their column, each is
// followed by a space, the last one too.
type grid struct{ rows [][]cell }

// cell is a text with an ANSI code for its colour.
type cell struct{ text, colour string }

func newGrid(head ...string) *grid {
	g := &grid{}
	g.add(head...)
	return g
}

func (g *grid) add(texts ...string) {
	row := make([]cell, len(texts))
	for i, t := range texts {
		row[i].text = t
	}
	g.rows = append(g.rows, row)
}

// lines gives the rows without colours.
func (g *grid) lines() []string { return g.write(false) }

// write gives the rows as lines.
func (g *grid) write(coloured bool) []string {
	var widths []int
	for _, row := range g.rows {
		for i := range row {
			row[i].text = plain(row[i].text)
			c := row[i]
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	lines := make([]string, len(g.rows))
	for n, row := range g.rows {
		var b strings.Builder
		for i, c := range row {
			if coloured && c.colour != "" {
				b.WriteString("\x1b[" + c.colour + "m" + c.text + "\x1b[39m")
			} else {
				b.WriteString(c.text)
			}
			b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+1))
		}
		lines[n] = b.String()
	}
	return lines
}

// plain replaces what would move a cursor or break a line.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, text)
}
