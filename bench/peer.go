package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A job is what a supervisor is asked to run.
type job struct {
	command []string // the child and its arguments
	dir     string   // a folder of the supervisor's own
	http    string   // where it serves HTTP, if it does
	file    string   // where the child's stdout goes; empty: nowhere in particular
	err     string   // where its stderr goes
	log     string   // where both go
	name    string   // of the daemon

	// Of an app that node is to run: the command is node and the app's file.
	port      string // that it listens on, and its PORT
	instances int    // 0: one, that shares nothing
}

// A peer is one supervisor, a column of the table. A function that is nil says
// that it cannot do that.
type peer struct {
	name    string
	version string
	program string // empty: missing
	missing string // then: what to do about it

	once    func(peer, job) ([]string, error) // keeps the job's command as its child
	served  func(peer, job) ([]string, error) // the same, with an address for metrics
	again   func(peer, job) ([]string, error) // starts it again at once after every end
	collect func(peer, job) ([]string, error) // has its stdout written to the job's file
	daemon  func(peer, job) ([]string, error) // has a daemon keep the job's command, and its output in the job's files
	reload  string                            // the client's action that replaces the daemon's processes; empty: there is none
	client  string                            // the program that knows of daemons
	ahead   string                            // the action that starts what all of them share; empty: they share nothing

	forwards bool // passes SIGUSR1 on to its child
	reaps    bool // reaps processes that it did not start
	native   bool // is one binary
	slow     bool // starts in hundreds of milliseconds: fewer rounds do
}

// findPeers gives all columns, from left to right, whether they are there or not.
func findPeers(programs, evermore, npm string) []peer {
	dashes := func(p peer, j job) ([]string, error) {
		return append([]string{p.program, "--"}, j.command...), nil
	}
	plain := func(p peer, j job) ([]string, error) {
		return append([]string{p.program}, j.command...), nil
	}
	peers := []peer{
		{
			name: "raw", program: filepath.Join(programs, "raw"),
			once: plain, again: plain, collect: plain,
			forwards: true, reaps: true,
		},
		{name: "tini", once: dashes, forwards: true, reaps: true, native: true},
		{name: "dumb-init", once: dashes, forwards: true, reaps: true, native: true},
		{name: "catatonit", once: dashes, forwards: true, reaps: true, native: true},
		{name: "forever", once: foreverOnce, again: foreverAgain, collect: foreverCollect, daemon: started, slow: true},
		{name: "pm2-runtime", once: pm2, again: pm2, collect: pm2, daemon: pm2Started, ahead: "ping", slow: true},
		{
			name: "evermore",
			once: dashes, served: evermoreServed, again: evermoreAgain, collect: evermoreCollect, daemon: started,
			forwards: true, reaps: true, native: true,
		},
	}
	for i := range peers {
		switch p := &peers[i]; p.name {
		case "raw":
		case "forever":
			p.fromNPM(npm, "forever")
			p.client = p.program
		case "pm2-runtime":
			p.fromNPM(npm, "pm2")
			p.client = filepath.Join(filepath.Dir(p.program), "pm2")
		case "evermore":
			p.program, p.missing = evermore, "make build"
			p.askVersion()
			p.client = p.program
		default:
			p.program, p.missing = p.name, "apt-get install "+p.name
			p.askVersion()
		}
	}
	return peers
}

// askVersion finds the program and has it tell its version; without one the peer
// is missing.
func (p *peer) askVersion() {
	path, err := exec.LookPath(p.program)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		p.program = ""
		return
	}
	p.program = path
	// dumb-init tells it on stderr.
	told, err := exec.Command(path, "--version").CombinedOutput()
	if err == nil {
		p.version = numbered.FindString(string(told))
	}
}

// numbered is a version; a build without one has none.
var numbered = regexp.MustCompile(`\d+\.\d+(\.\d+)?`)

// fromNPM finds a program that the npm package pkg brings.
func (p *peer) fromNPM(modules, pkg string) {
	p.missing = "npm install, see the Makefile; it needs node and npm"
	text, err := os.ReadFile(filepath.Join(modules, pkg, "package.json"))
	if err != nil {
		return
	}
	var is struct{ Version string }
	if err := json.Unmarshal(text, &is); err != nil {
		return
	}
	path, err := filepath.Abs(filepath.Join(modules, ".bin", p.name))
	if err != nil {
		return
	}
	p.program, p.version = path, is.Version
}

// column is the peer's heading: its name, version and how it runs.
func (p peer) column() string {
	name, how, _ := strings.Cut(p.name, " ")
	return strings.Join(strings.Fields(name+" "+p.version+" "+how), " ")
}

// findApps gives the columns of what keeps a server up, in the ways that each of
// the peers has.
func findApps(peers []peer) []peer {
	as := func(name, of string, daemon how, reload string) peer {
		p := peers[slices.IndexFunc(peers, func(p peer) bool { return p.name == of })]
		return peer{
			name: name, version: p.version, program: p.program, missing: p.missing,
			client: p.client, ahead: p.ahead, daemon: daemon, reload: reload,
		}
	}
	loop := peer{name: "sh loop", program: "sh", daemon: looped, once: alone}
	hold := as("evermore --hold", "evermore", evermoreApp, "reload")
	hold.once = evermoreHeld
	return []peer{
		loop,
		as("forever", "forever", foreverApp, "restart"),
		as("pm2", "pm2-runtime", pm2App, "reload"),
		as("pm2 -i 2", "pm2-runtime", clustered(pm2App), "reload"),
		{name: "node:cluster -i 2", program: "node", daemon: clustered(nodeCluster)},
		hold,
		as("evermore -i 2", "evermore", clustered(evermoreApp), "reload"),
	}
}

// clustered has two instances where the job does not say how many.
func clustered(as how) how {
	return func(p peer, j job) ([]string, error) {
		j.instances = cmp.Or(j.instances, 2)
		return as(p, j)
	}
}

// alone runs the file with node and nothing else.
func alone(_ peer, j job) ([]string, error) { return append([]string{"node"}, j.command...), nil }

func evermoreHeld(p peer, j job) ([]string, error) {
	return append([]string{p.program, "--hold", j.port, "--", "node"}, j.command...), nil
}

func nodeCluster(_ peer, j job) ([]string, error) {
	program := filepath.Join(filepath.Dir(j.command[1]), "cluster.js")
	return []string{"sh", "-c", `"$@" & exit`, "sh", "node", program, j.command[1], strconv.Itoa(j.instances)}, nil
}

func looped(_ peer, j job) ([]string, error) {
	return append([]string{"sh", "-c", `while :; do "$@"; done & exit`, "sh"}, j.command...), nil
}

func foreverApp(p peer, j job) ([]string, error) {
	return forever(p, j, "start", "--uid", j.name, "--minUptime", "1", "--spinSleepTime", "1"), nil
}

func pm2App(p peer, j job) ([]string, error) {
	app := map[string]any{"name": j.name, "script": j.command[1], "max_restarts": 1_000_000}
	if j.instances > 0 {
		app["exec_mode"], app["instances"] = "cluster", j.instances
	}
	return pm2Start(p.client, j, app)
}

func evermoreApp(p peer, j job) ([]string, error) {
	options := []string{p.program, "start", "--uid", j.name, "--min-uptime", "1", "--spin-sleep-time", "1"}
	if j.instances > 0 {
		options = append(options, "-i", strconv.Itoa(j.instances)) // on PORT
	} else {
		options = append(options, "--hold", j.port)
	}
	return append(options, j.command[1]), nil
}

// forever takes the script as the last argument of the command that -c names.
func forever(p peer, j job, options ...string) []string {
	return append(append([]string{p.program}, options...), append([]string{"-c"}, j.command...)...)
}

func foreverOnce(p peer, j job) ([]string, error) { return forever(p, j), nil }

// A run of more than a millisecond is not spinning, so the next follows at once.
// A machine that is too busy to see that long a run must not make forever give up.
func foreverAgain(p peer, j job) ([]string, error) {
	return forever(p, j, "--minUptime", "1", "--spinSleepTime", "1"), nil
}

func foreverCollect(p peer, j job) ([]string, error) {
	return forever(p, j, "-s", "-o", j.file), nil
}

// started speaks the words of forever, which evermore has, too.
func started(p peer, j job) ([]string, error) {
	options := []string{"start", "--uid", j.name}
	if j.log != "" {
		options = append(options, "-l", j.log, "-o", j.file, "-e", j.err)
	}
	return forever(p, j, options...), nil
}

func pm2Started(p peer, j job) ([]string, error) {
	p.program = p.client
	return pm2(p, j)
}

func pm2(p peer, j job) ([]string, error) {
	app := map[string]any{
		"name":         cmp.Or(j.name, "bench"),
		"script":       j.command[0],
		"args":         j.command[1:],
		"interpreter":  "none",
		"max_restarts": 1_000_000,
	}
	if j.file != "" {
		app["out_file"] = j.file
	}
	if j.log != "" {
		app["error_file"], app["log_file"] = j.err, j.log
	}
	return pm2Start(p.program, j, app)
}

// pm2Start writes an ecosystem file, the only way to give pm2-runtime a command
// whose arguments are its own.
func pm2Start(program string, j job, app map[string]any) ([]string, error) {
	text, err := json.Marshal(map[string]any{"apps": []any{app}})
	if err != nil {
		return nil, err
	}
	config := filepath.Join(j.dir, "bench.json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return nil, fmt.Errorf("cannot write pm2's configuration: %w", err)
	}
	return []string{program, "start", config}, nil
}

func evermore(p peer, j job, options ...string) []string {
	options = append(options, "--http", j.http, "--")
	return append(append([]string{p.program}, options...), j.command...)
}

func evermoreServed(p peer, j job) ([]string, error) { return evermore(p, j), nil }

func evermoreAgain(p peer, j job) ([]string, error) {
	return evermore(p, j, "--restart", "always", "--min-uptime", "1", "--max-restarts", "0"), nil
}

func evermoreCollect(p peer, j job) ([]string, error) {
	return evermore(p, j, "-s", "-o", j.file), nil
}
