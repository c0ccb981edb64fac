// Package grafana is the source of evermore's dashboard: what its panels ask
// Prometheus, as Grafana's JSON (evermore.json) and, drawn without Grafana, as the
// picture in the README.
package grafana

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Kind is how a panel shows its series.
type Kind string

// The kinds are Grafana's types of panels; Bars are time series drawn as bars.
const (
	Stat   Kind = "stat"           // one number
	Lines  Kind = "timeseries"     // a line a series
	Bars   Kind = "bars"           // stacked bars
	States Kind = "state-timeline" // a row a series, coloured by its value
	Counts Kind = "bargauge"       // a bar a bucket of a histogram
)

// Query is one question to Prometheus.
type Query struct {
	// Expr is PromQL with Grafana's variables.
	Expr string
	// Legend names a series: text with {{label}}.
	Legend string
}

// Panel is one picture of the dashboard.
type Panel struct {
	Title string
	Help  string // what a reader can't see from the title
	Kind  Kind
	Unit  string // Grafana's name of it
	// Warn is the value from which, or with Low down to which, a Stat is red.
	Warn    float64
	Low     bool
	Queries []Query
}

// Row is a heading with the panels below it.
type Row struct {
	Title  string
	Panels []Panel
}

// State is what a value of the state timeline means.
type State struct {
	Value int
	Name  string
	Color string // Grafana's name of it
}

// ready is added to the value of the state running while the app is ready.
const ready = 6

// AppStates are the states of an app, with ready as one more.
func AppStates() []State {
	return []State{
		{0, "stopped", "text"},
		{1, "preparing", "purple"},
		{2, "running, not ready", "yellow"},
		{3, "clearing", "orange"},
		{4, "backoff", "red"},
		{5, "stopping", "blue"},
		{2 + ready, "ready", "green"},
	}
}

// legend tells instances apart: by the pod in Kubernetes, else by the address.
const legend = "{{pod}} {{instance}}"

// worker tells the processes of an instance apart, too.
const worker = legend + " {{worker}}"

// of gives evermore's metric of the selected targets, with more matchers.
func of(metric string, matchers ...string) string { return target("evermore_"+metric, matchers...) }

func target(metric string, matchers ...string) string {
	all := append([]string{`job=~"$job"`, `namespace=~"$namespace"`, `pod=~"$pod"`, `instance=~"$instance"`}, matchers...)
	return metric + "{" + strings.Join(all, ", ") + "}"
}

// own keeps evermore's part of what the targets of other jobs have, too.
func own(expr string) string { return expr + " and on (job, instance) evermore_build_info" }

// since is what a counter grew by shortly before a point of a graph.
func since(counter string) string { return "increase(" + counter + "[$__rate_interval])" }

func perSecond(counter string) string { return "rate(" + counter + "[$__rate_interval])" }

// one is a panel's only query.
func one(expr, legend string) []Query { return []Query{{expr, legend}} }

const crash = `reason!~"request|watch|reload"`

// stateExpr gives the value of AppStates.
func stateExpr() string {
	var terms []string
	for _, s := range AppStates() {
		name, _, _ := strings.Cut(s.Name, ",")
		if name != "ready" && s.Value > 0 {
			terms = append(terms, fmt.Sprintf("%d * %s", s.Value, of("child_state", `state="`+name+`"`)))
		}
	}
	return fmt.Sprintf("max without (state) (%s) + %d * %s", strings.Join(terms, " or "), ready, of("child_ready"))
}

// Rows are the dashboard, from its top down.
func Rows() []Row {
	return []Row{
		{"Now", []Panel{
			{Title: "Instances", Kind: Stat, Low: true, Warn: 0, Queries: one("count("+of("build_info")+")", "")},
			{Title: "Ready", Kind: Stat, Unit: "percentunit", Low: true, Warn: 0.5, Queries: one("avg("+of("child_ready")+")", "")},
			{
				Title: "Crashes", Kind: Stat, Warn: 1, Help: "In the time shown. A restart by request, watch or reload is none.",
				Queries: one("sum(round(increase("+of("child_restarts_total", crash)+"[$__range])))", ""),
			},
			{Title: "Spinning", Kind: Stat, Warn: 1, Help: "Apps that end before their least uptime.", Queries: one("sum("+of("child_spinning")+")", "")},
			{Title: "Out of memory", Kind: Stat, Warn: 1, Help: "Kills by the kernel in the time shown.", Queries: one("sum(round(increase("+of("oom_kills_total")+"[$__range])))", "")},
			{Title: "Restarts left", Kind: Stat, Low: true, Warn: 1, Help: "Of the instance that has fewest before evermore gives its app up.", Queries: one("min("+of("restarts_remaining")+")", "")},
		}},
		{"Life", []Panel{
			{Title: "State", Kind: States, Queries: one(stateExpr(), worker)},
			{Title: "Restarts by reason", Kind: Bars, Queries: one("sum by (reason) ("+since(of("child_restarts_total"))+") > 0", "{{reason}}")},
			{
				Title: "Exits by reason and code", Kind: Bars, Help: "Code 128+n is signal n.",
				Queries: one("sum by (reason, code) ("+since(of("child_exits_total"))+") > 0", "{{reason}} {{code}}"),
			},
			{Title: "Uptime", Kind: Lines, Unit: "s", Queries: one(of("child_uptime_seconds"), worker)},
			{Title: "Last exit code", Kind: Lines, Help: "128+n is signal n.", Queries: one(of("child_last_exit_code"), worker)},
			{Title: "Back-off", Kind: Lines, Unit: "s", Help: "The pause before the next start that is being waited for.", Queries: one(of("restart_backoff_seconds"), worker)},
			{Title: "Restarts remaining", Kind: Lines, Help: "What the limits still allow; nothing where there is none.", Queries: one(of("restarts_remaining"), worker)},
			{
				Title: "How long runs lasted", Kind: Counts, Help: "Runs that ended in the time shown, by the seconds that they lasted at the most.",
				Queries: one("sum by (le) (increase("+of("child_run_duration_seconds_bucket")+"[$__range]))", "{{le}}"),
			},
			{Title: "Signals forwarded", Kind: Bars, Queries: one("sum by (signal) ("+since(of("signals_forwarded_total"))+") > 0", "{{signal}}")},
			{Title: "Killed", Kind: Lines, Queries: []Query{
				{"sum(" + since(of("oom_kills_total")) + ")", "out of memory"},
				{"sum(" + since(of("stop_kills_total")) + ")", "did not stop in time"},
			}},
		}},
		{"Workers and reloads", []Panel{
			{Title: "Workers", Kind: Lines, Help: "Processes that there are to be, and those that are ready.", Queries: []Query{
				{"sum(" + of("workers") + ")", "to be"},
				{"sum(" + of("workers_ready") + ")", "ready"},
			}},
			{Title: "Reloads by result", Kind: Bars, Queries: one("sum by (result) ("+since(of("reloads_total"))+")", "{{result}}")},
			{
				Title: "How long reloads took", Kind: Counts, Help: "Those that succeeded in the time shown, by the seconds that they took at the most.",
				Queries: one("sum by (le) (increase("+of("reload_duration_seconds_bucket")+"[$__range]))", "{{le}}"),
			},
		}},
		{"Held ports and event loops", []Panel{
			{
				Title: "Connections that wait", Kind: Lines, Help: "At held ports, for the app to accept them. They grow while it is replaced, and where it is too slow.",
				Queries: one(of("listener_backlog"), legend+" {{port}}"),
			},
			{
				Title: "Room for waiting connections", Kind: Lines, Unit: "percentunit", Help: "Connections that find none have to try again.",
				Queries: one("1 - "+of("listener_backlog")+" / "+of("listener_backlog_limit"), legend+" {{port}}"),
			},
			{
				Title: "Event loop's answer", Kind: Lines, Unit: "s", Help: "99 of 100 pings were answered within; needs --hang-timeout.",
				Queries: one("histogram_quantile(0.99, sum by (le, pod, instance, worker) (rate("+of("child_event_loop_ping_seconds_bucket")+"[$__rate_interval])))", worker),
			},
		}},
		{"The app's processes", []Panel{
			{Title: "CPU", Kind: Lines, Unit: "percentunit", Help: "100% is one CPU.", Queries: one(perSecond(of("child_process_cpu_seconds_total")), worker)},
			{Title: "Resident memory", Kind: Lines, Unit: "bytes", Queries: one(of("child_process_resident_memory_bytes"), worker)},
			{Title: "Open file descriptors", Kind: Lines, Queries: one(of("child_process_open_fds"), worker)},
			{
				Title: "Output through evermore", Kind: Lines, Unit: "Bps", Help: "Only where it goes through a pipe: what the app writes straight to its target is not seen.",
				Queries: one("sum by (stream) ("+perSecond(of("log_bytes_total"))+")", "{{stream}}"),
			},
		}},
		{"evermore itself", []Panel{
			{Title: "evermore: resident memory", Kind: Lines, Unit: "bytes", Queries: one(own(target("process_resident_memory_bytes")), legend)},
			{Title: "evermore: CPU", Kind: Lines, Unit: "percentunit", Help: "100% is one CPU.", Queries: one(own(perSecond(target("process_cpu_seconds_total"))), legend)},
			{Title: "Orphans and zombies", Kind: Lines, Queries: []Query{
				{"sum(" + since(of("reaped_orphans_total")) + ")", "orphans reaped"},
				{"sum(" + since(of("zombies_found_total")) + ")", "zombies found"},
			}},
			{Title: "Failures", Kind: Lines, Help: "None of them ends supervision.", Queries: []Query{
				{"sum(" + since(of("warnings_total")) + ")", "warnings"},
				{"sum(" + since(of("log_write_errors_total")) + ")", "output lost"},
				{"sum(" + since(of("log_lines_lost_total")) + ")", "own lines lost"},
				{"sum(" + since(of("http_bind_failures_total")) + ")", "address taken"},
			}},
		}},
	}
}

// Firing is the query for the alerts that are marked in the graphs.
const Firing = `ALERTS{alertname=~"Evermore.+", alertstate="firing", namespace=~"$namespace"}`

// Variable is a choice above the panels.
type Variable struct {
	Name string
	Expr string // label_values of Grafana's Prometheus data source
}

// Variables are the choices, each within those before it.
func Variables() (all []Variable) {
	var matchers []string
	for _, label := range []string{"job", "namespace", "pod", "instance"} {
		all = append(all, Variable{label, "label_values(evermore_build_info{" + strings.Join(matchers, ", ") + "}, " + label + ")"})
		matchers = append(matchers, label+`=~"$`+label+`"`)
	}
	return all
}

type object = map[string]any

// JSON gives the dashboard as Grafana 10 and later import it.
func JSON() ([]byte, error) {
	var variables []object
	variables = append(variables, object{"name": "datasource", "label": "data source", "type": "datasource", "query": "prometheus"})
	for _, v := range Variables() {
		variables = append(variables, object{
			"name": v.Name, "type": "query", "datasource": source, "query": object{"query": v.Expr, "refId": v.Name},
			// All includes targets without the label, as those outside of Kubernetes.
			"includeAll": true, "allValue": ".*", "multi": true, "current": object{"text": "All", "value": "$__all"},
			"refresh": 2, // when the time range changes, too: pods come and go
			"sort":    1,
		})
	}
	text, err := json.MarshalIndent(object{
		"uid": "evermore", "title": "evermore", "tags": []string{"evermore", "nodejs"},
		"schemaVersion": 39, "editable": true, "refresh": "30s", "timezone": "browser",
		"time":       object{"from": "now-1h", "to": "now"},
		"templating": object{"list": variables},
		"annotations": object{"list": []object{{
			"name": "alerts", "enable": true, "iconColor": "red", "datasource": source,
			"expr": Firing, "titleFormat": "{{alertname}}", "textFormat": "{{pod}} {{instance}}",
		}}},
		"panels": panels(),
	}, "", "  ")
	return append(text, '\n'), err
}

var source = object{"type": "prometheus", "uid": "${datasource}"}

// Size gives the width of a panel in a row of so many, of 24, and its height in
// units of Grafana.
func (p Panel) Size(row int) (width, height int) {
	switch {
	case p.Kind == Stat:
		return 4, 4
	case p.Kind == States:
		return 24, 6
	case row == 4:
		return 6, 7
	default:
		return 8, 7
	}
}

func panels() (all []object) {
	id, x, y, next := 0, 0, 0, 0
	place := func(width, height int) object {
		if x+width > 24 {
			x, y = 0, next
		}
		at := object{"x": x, "y": y, "w": width, "h": height}
		x, next = x+width, y+height
		return at
	}
	for _, row := range Rows() {
		id++
		x, y = 0, next
		all = append(all, object{"id": id, "type": "row", "title": row.Title, "collapsed": false, "panels": []object{}, "gridPos": place(24, 1)})
		for _, p := range row.Panels {
			id++
			panel := p.json()
			panel["id"], panel["gridPos"] = id, place(p.Size(len(row.Panels)))
			all = append(all, panel)
		}
	}
	return all
}

func (p Panel) json() object {
	kind := p.Kind
	if kind == Bars {
		kind = Lines
	}
	var targets []object
	for i, q := range p.Queries {
		target := object{"refId": string(rune('A' + i)), "datasource": source, "expr": q.Expr, "legendFormat": q.Legend}
		switch p.Kind {
		case Stat:
			target["instant"], target["range"] = true, false
		case Counts:
			// As a heat map Grafana makes counts of the cumulative buckets.
			target["instant"], target["range"], target["format"] = true, false, "heatmap"
		}
		targets = append(targets, target)
	}
	defaults, options := p.look()
	if p.Unit != "" {
		defaults["unit"] = p.Unit
	}
	panel := object{
		"type": kind, "title": p.Title, "datasource": source, "targets": targets,
		"fieldConfig": object{"defaults": defaults, "overrides": []object{}}, "options": options,
	}
	if p.Help != "" {
		panel["description"] = p.Help
	}
	return panel
}

// look gives the defaults of a panel's fields, and its options.
func (p Panel) look() (defaults, options object) {
	last := object{"calcs": []string{"lastNotNull"}}
	list := object{"displayMode": "list", "placement": "bottom", "showLegend": true}
	switch p.Kind {
	case Stat:
		below, above := "green", "red"
		if p.Low {
			below, above = "red", "green"
		}
		at := p.Warn
		if p.Low {
			at += 0.001 // a threshold's colour is that from its value on
		}
		return object{"noValue": "-", "thresholds": object{"mode": "absolute", "steps": []object{{"color": below, "value": nil}, {"color": above, "value": at}}}},
			object{"reduceOptions": last, "colorMode": "value", "graphMode": "none"}
	case States:
		values := object{}
		for i, s := range AppStates() {
			values[fmt.Sprint(s.Value)] = object{"text": s.Name, "color": s.Color, "index": i}
		}
		return object{"mappings": []object{{"type": "value", "options": values}}},
			object{"mergeValues": true, "showValue": "never", "rowHeight": 0.8, "legend": list}
	case Counts:
		return object{"color": object{"mode": "fixed", "fixedColor": "blue"}, "decimals": 0},
			object{"reduceOptions": last, "orientation": "horizontal", "displayMode": "basic"}
	case Bars:
		return object{"min": 0, "custom": object{"drawStyle": "bars", "fillOpacity": 80, "lineWidth": 0, "stacking": object{"mode": "normal"}}},
			object{"legend": list, "tooltip": object{"mode": "multi"}}
	default:
		return object{"min": 0, "custom": object{"drawStyle": "line", "lineInterpolation": "stepAfter", "fillOpacity": 5, "lineWidth": 1, "showPoints": "never"}},
			object{"legend": list, "tooltip": object{"mode": "multi"}}
	}
}
