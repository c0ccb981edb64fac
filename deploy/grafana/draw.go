package grafana

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Point is a value at a moment.
type Point struct {
	At    time.Time
	Value float64
}

// Series is what a query gave for one set of labels; of an instant query one
// point.
type Series struct {
	Labels map[string]string
	Points []Point
}

// Picture is a dashboard with data, drawn by Draw.
type Picture struct {
	From, To time.Time
	Step     time.Duration
	// Ask gives the answer to a query: over time, or, where the panel shows one
	// moment, at the end.
	Ask func(expr string, instant bool) ([]Series, error)
}

// Instant tells that the panel shows one moment, not the course of time.
func (p Panel) Instant() bool { return p.Kind == Stat || p.Kind == Counts }

// Sizes in units of the picture.
const (
	pictureWidth = 1080.0
	gap          = 10.0
	headHeight   = 26.0 // of a row's heading, of a panel's title
	statHeight   = 74.0
	graphHeight  = 200.0
	footHeight   = 58.0 // the time and two lines of legend below a graph
	axisWidth    = 62.0 // the values beside a graph
	rowHeight    = 24.0 // of the state timeline
)

// The style is legible on white and on black, as the reader's system has it.
const style = `
text { font: 12px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #4b5563 }
.page { fill: #f4f5f7 } .panel { fill: #ffffff; stroke: #dfe2e7 } .grid { stroke: #e5e7eb }
.title { font-weight: 600; fill: #1f2933 } .row { font-size: 14px; font-weight: 600; fill: #1f2933 }
.big { font-size: 30px; font-weight: 600 } .good { fill: #2f8f3e } .bad { fill: #d92d3a }
.end { text-anchor: end } .mid { text-anchor: middle }
@media (prefers-color-scheme: dark) {
  text { fill: #a9b1bd } .title, .row { fill: #e6e9ee }
  .page { fill: #0f1216 } .panel { fill: #181b20; stroke: #2a2f37 } .grid { stroke: #2a2f37 }
  .good { fill: #6ccf70 } .bad { fill: #ff6b74 }
}
`

// palette colours series in their order.
var palette = []string{"#3b82f6", "#f08c2e", "#3fa34d", "#a855d6", "#e5484d", "#12a5a5", "#c9a227", "#8b93a1"}

// colors are Grafana's names as in the palette.
var colors = map[string]string{
	"green": "#3fa34d", "yellow": "#e3b505", "orange": "#f08c2e", "red": "#e5484d",
	"purple": "#a855d6", "blue": "#3b82f6", "text": "#8b93a1",
}

// canvas is an SVG under way.
type canvas struct {
	strings.Builder
	*Picture
}

func (c *canvas) addf(format string, args ...any) { fmt.Fprintf(c, format+"\n", args...) }

func (c *canvas) rect(class string, x, y, w, h float64) {
	c.addf(`<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="4"/>`, class, x, y, w, h)
}

func (c *canvas) box(fill string, x, y, w, h float64) {
	c.addf(`<rect fill="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, fill, x, y, w, h)
}

func (c *canvas) text(class string, x, y float64, text string) {
	c.addf(`<text class="%s" x="%.1f" y="%.1f">%s</text>`, class, x, y, html.EscapeString(text))
}

// Draw gives an SVG of the rows with what their queries gave.
func (p *Picture) Draw(rows []Row) ([]byte, error) {
	c := &canvas{Picture: p}
	y := gap
	for _, row := range rows {
		c.text("row", gap, y+17, row.Title)
		y += headHeight
		x, next := 0.0, y
		for _, panel := range row.Panels {
			answers, err := c.ask(panel)
			if err != nil {
				return nil, err
			}
			columns, _ := panel.Size(len(row.Panels))
			width, height := pictureWidth*float64(columns)/24, panel.height(answers)
			if x+width > pictureWidth {
				x, y = 0, next
			}
			c.panel(panel, answers, x+gap/2, y, width-gap, height)
			x, next = x+width, y+height+gap
		}
		y = next
	}
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" role="img">`+
		"\n<title>evermore's dashboard</title>\n<style>%s</style>\n"+`<rect class="page" width="100%%" height="100%%"/>`+"\n", pictureWidth, y, style)
	return []byte(head + c.String() + "</svg>\n"), nil
}

// answer is a series with its name in the legend.
type answer struct {
	Series
	name string
}

var label = regexp.MustCompile(`\{\{(\w+)\}\}`)

func (c *canvas) ask(p Panel) (all []answer, err error) {
	for _, q := range p.Queries {
		series, err := c.Ask(q.Expr, p.Instant())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Title, err)
		}
		for _, s := range series {
			name := label.ReplaceAllStringFunc(q.Legend, func(l string) string { return s.Labels[strings.Trim(l, "{}")] })
			all = append(all, answer{s, strings.TrimSpace(name)})
		}
	}
	slices.SortStableFunc(all, func(a, b answer) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

func (p Panel) height(answers []answer) float64 {
	switch p.Kind {
	case Stat:
		return statHeight
	case States:
		return headHeight + rowHeight*float64(len(answers)) + footHeight - 16 // its legend has one line
	default:
		return graphHeight
	}
}

func (c *canvas) panel(p Panel, answers []answer, x, y, w, h float64) {
	c.rect("panel", x, y, w, h)
	c.text("title", x+10, y+18, p.Title)
	switch p.Kind {
	case Stat:
		c.stat(p, answers, x+w/2, y+58)
	case States:
		c.states(answers, x, y+headHeight, w)
	case Counts:
		c.counts(answers, x, y+headHeight+4, w, h-headHeight-12)
	default:
		c.graph(p, answers, x, y+headHeight+4, w, h-headHeight-4-footHeight)
	}
}

func (c *canvas) stat(p Panel, answers []answer, x, y float64) {
	if len(answers) == 0 {
		c.text("big mid", x, y, "-")
		return
	}
	v := answers[0].Points[0].Value
	class := "big mid good"
	if p.Low && v <= p.Warn || !p.Low && v >= p.Warn {
		class = "big mid bad"
	}
	c.text(class, x, y, format(v, p.Unit))
}

// x of a moment in a graph.
func (c *canvas) xOf(at time.Time, x, w float64) float64 {
	return x + w*float64(at.Sub(c.From))/float64(c.To.Sub(c.From))
}

// times writes the minutes below a graph.
func (c *canvas) times(x, y, w float64) {
	const room = 55 // of one
	step := time.Minute
	for length := c.To.Sub(c.From); float64(length)/float64(step) > w/room; {
		step *= 2
	}
	for d := time.Duration(0); d <= c.To.Sub(c.From); d += step {
		c.text("mid", c.xOf(c.From.Add(d), x, w), y, fmt.Sprintf("%d min", int(d.Minutes())))
	}
}

// key is an entry of a legend.
type key struct{ color, name string }

// legend has room for two lines.
func (c *canvas) legend(keys []key, x, y, w float64) {
	at, bottom := x, y+16
	for _, k := range keys {
		// About what the text needs: its real width only the reader's font knows.
		need := 15 + 6.6*float64(len(k.name))
		if at+need > x+w {
			if y == bottom {
				c.text("", at, y, "…")
				return
			}
			at, y = x, bottom
		}
		c.box(k.color, at, y-9, 10, 10)
		c.text("", at+15, y, k.name)
		at += need + 12
	}
}

func (c *canvas) states(answers []answer, x, y, w float64) {
	const names = 90
	left, width := x+names, w-names-20
	named := map[int]State{}
	for _, s := range AppStates() {
		named[s.Value] = s
	}
	seen := map[int]bool{}
	for i, a := range answers {
		top := y + rowHeight*float64(i)
		c.text("", x+10, top+16, a.name)
		for n := 0; n < len(a.Points); {
			last := n
			for last+1 < len(a.Points) && a.Points[last+1].Value == a.Points[n].Value && !c.broken(a.Points, last+1) {
				last++
			}
			value := int(a.Points[n].Value)
			seen[value] = true
			from := c.xOf(a.Points[n].At, left, width)
			to := min(c.xOf(a.Points[last].At.Add(c.Step), left, width), left+width)
			c.box(colors[named[value].Color], from, top+3, max(to-from, 1), rowHeight-6)
			n = last + 1
		}
	}
	bottom := y + rowHeight*float64(len(answers))
	c.times(left, bottom+14, width)
	var keys []key
	for _, s := range AppStates() {
		if seen[s.Value] {
			keys = append(keys, key{colors[s.Color], s.Name})
		}
	}
	c.legend(keys, x+10, bottom+32, w-30)
}

// broken tells that there was no value just before a point.
func (c *canvas) broken(points []Point, i int) bool {
	return points[i].At.Sub(points[i-1].At) > c.Step*3/2
}

func (c *canvas) graph(p Panel, answers []answer, x, y, w, h float64) {
	left, width := x+axisWidth, w-axisWidth-24
	top := 0.0
	sums := map[time.Time]float64{}
	for _, a := range answers {
		for _, point := range a.Points {
			sums[point.At] += point.Value
			if p.Kind == Bars {
				top = max(top, sums[point.At])
			} else {
				top = max(top, point.Value)
			}
		}
	}
	tick := tickOf(top, p.Unit)
	top = max(math.Ceil(top/tick), 1) * tick
	yOf := func(v float64) float64 { return y + h - h*v/top }
	for v := 0.0; v <= top*1.001; v += tick {
		c.addf(`<path class="grid" d="M%.1f %.1fh%.1f"/>`, left, yOf(v), width)
		c.text("end", left-6, yOf(v)+4, format(v, p.Unit))
	}
	var keys []key
	stacked := map[time.Time]float64{}
	for i, a := range answers {
		color := palette[i%len(palette)]
		keys = append(keys, key{color, a.name})
		if p.Kind == Bars {
			thick := max(width*float64(c.Step)/float64(c.To.Sub(c.From)), 1.5)
			for _, point := range a.Points {
				bottom := yOf(stacked[point.At])
				stacked[point.At] += point.Value
				c.box(color, c.xOf(point.At, left, width)-thick, yOf(stacked[point.At]), thick, bottom-yOf(stacked[point.At]))
			}
			continue
		}
		var d strings.Builder
		for n, point := range a.Points {
			if n == 0 || c.broken(a.Points, n) {
				fmt.Fprintf(&d, "M%.1f %.1fh1", c.xOf(point.At, left, width), yOf(point.Value))
			} else {
				fmt.Fprintf(&d, "H%.1fV%.1f", c.xOf(point.At, left, width), yOf(point.Value))
			}
		}
		c.addf(`<path fill="none" stroke="%s" stroke-width="1.4" d="%s"/>`, color, d.String())
	}
	if len(answers) == 0 {
		c.text("mid", left+width/2, y+h/2, "none")
	}
	c.times(left, y+h+16, width)
	c.legend(keys, x+10, y+h+34, w-30)
}

// counts draws a bar a bucket; Prometheus' buckets include those before them.
func (c *canvas) counts(answers []answer, x, y, w, h float64) {
	bound := func(a answer) float64 {
		v, _ := strconv.ParseFloat(a.Labels["le"], 64)
		return v
	}
	slices.SortFunc(answers, func(a, b answer) int { return cmp.Compare(bound(a), bound(b)) })
	counts := make([]float64, len(answers))
	before, most := 0.0, 1.0
	for i, a := range answers {
		counts[i], before = a.Points[0].Value-before, a.Points[0].Value
		most = max(most, counts[i])
	}
	each := h / float64(max(len(answers), 1))
	for i, a := range answers {
		at := y + each*float64(i)
		name := "≤ " + format(bound(a), "s")
		if math.IsInf(bound(a), 1) {
			name = "longer"
		}
		c.text("end", x+axisWidth+6, at+each/2+4, name)
		c.box(palette[0], x+axisWidth+14, at+2, max((w-axisWidth-60)*counts[i]/most, 1), each-4)
		c.text("", x+axisWidth+20+(w-axisWidth-60)*counts[i]/most, at+each/2+4, format(math.Round(counts[i]), ""))
	}
}

// tickOf gives the distance of the lines of a graph whose highest value is top:
// about four of them, at round values.
func tickOf(top float64, unit string) float64 {
	least := 1.0
	switch unit {
	case "bytes", "Bps":
		tick := math.Pow(2, math.Ceil(math.Log2(max(top, 1)/4)))
		return max(tick, 1)
	case "percentunit":
		least = 0.01
	case "s":
		for _, tick := range []float64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600} {
			if top <= 4*tick {
				return tick
			}
		}
	}
	if top <= 4*least {
		return least
	}
	power := math.Pow(10, math.Floor(math.Log10(top/4)))
	for _, n := range []float64{1, 2, 5} {
		if n*power*4 >= top*0.99 {
			return n * power
		}
	}
	return 10 * power
}

// format writes a value in Grafana's unit.
func format(v float64, unit string) string {
	short := func(v float64) string {
		if math.Abs(v) >= 1000 {
			return strconv.FormatFloat(v, 'f', 0, 64)
		}
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	switch unit {
	case "percentunit":
		return short(v*100) + "%"
	case "bytes", "Bps":
		units := []string{"B", "KiB", "MiB", "GiB"}
		i := 0
		for ; v >= 1024 && i+1 < len(units); i++ {
			v /= 1024
		}
		if unit == "Bps" {
			units[i] += "/s"
		}
		return short(v) + " " + units[i]
	case "s":
		for _, u := range []struct {
			name    string
			seconds float64
		}{{"d", 86400}, {"h", 3600}, {"min", 60}} {
			if v >= u.seconds {
				return short(v/u.seconds) + " " + u.name
			}
		}
		return short(v) + " s"
	}
	return short(v)
}
