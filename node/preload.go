package node

import (
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"sync"
)

//go:embed preload.js
var preloadSource string

// preload is the code without its comments: it is in the environment of each
// process of the app.
var preload = sync.OnceValue(func() string {
	var code strings.Builder
	for line := range strings.Lines(preloadSource) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			code.WriteString(line + "\n")
		}
	}
	return code.String()
})

// preloadOption has node run the preload. As a data: URL it needs no file, and no
// right to read one under --permission; the URL is short, since node takes some
// milliseconds for a long one. Node knows --import in NODE_OPTIONS from 18.19 on;
// before that it exits with InvalidOption.
var preloadOption = sync.OnceValue(func() string {
	const run = `import{createRequire}from'node:module';try{const require=createRequire('/'),config=JSON.parse(process.env.` + environment + `);` +
		`require('node:vm').compileFunction(config.code,['require','config'])(require,config)}catch{}`
	return "--import=data:text/javascript;base64," + base64.StdEncoding.EncodeToString([]byte(run))
})

// InvalidOption is node's exit code for an option that it does not know,
// https://nodejs.org/api/process.html#exit-codes.
const InvalidOption = 9

// environment is the variable that the preload goes by.
const environment = "EVERMORE_NODE"

// told is what it holds.
type told struct {
	PID      int       `json:"pid"`
	Name     string    `json:"name"` // of the link's abstract socket, without the leading zero
	File     string    `json:"file"` // of its file
	Held     Held      `json:"held"`
	AtStart  bool      `json:"atStart,omitempty"`
	Messages bool      `json:"messages,omitempty"`
	Code     string    `json:"code"`            // of the preload
	Stats    []float64 `json:"stats,omitempty"` // the buckets of collections; nil: no stats
}

// Environ gives an environment in which node runs the preload: it takes what is
// held and speaks to this link.
func (l *Link) Environ(env []string, held Held) []string {
	t := told{
		PID: os.Getpid(), Name: l.name, File: l.file, Held: held,
		AtStart: l.options.AtStart, Messages: l.options.Messages, Code: preload(),
	}
	if held == nil {
		t.Held = Held{}
	}
	if l.options.Stats {
		t.Stats = collectionBuckets
	}
	text, err := json.Marshal(t)
	if err != nil {
		panic("internal error: " + err.Error())
	}
	env = WithOptions(env, preloadOption())
	kept := make([]string, 0, len(env)+1)
	for _, v := range env {
		if !strings.HasPrefix(v, environment+"=") {
			kept = append(kept, v)
		}
	}
	return append(kept, environment+"="+string(text))
}

// HeldBy gives what was held for a process of this environment, which Environ made.
func HeldBy(env []string) []Address {
	var list []Address
	for _, v := range env {
		text, ok := strings.CutPrefix(v, environment+"=")
		var t told
		if !ok || json.Unmarshal([]byte(text), &t) != nil {
			continue
		}
		for _, h := range t.Held {
			if a, err := ParseAddress(h.Name, "/"); err == nil {
				list = append(list, a)
			}
		}
	}
	return list
}
