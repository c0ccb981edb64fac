package cluster

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// farewell is what was seen of a pod that was deleted.
type farewell struct {
	last   pod // the last status
	log    []string
	events []event
}

// delete ends a pod as anybody does and looks on.
func (n *namespace) delete(p pod) (f farewell) {
	n.t.Helper()
	follow := n.follow("logs", p.Metadata.Name, "--container", "app", "--follow")
	statuses := n.follow("get", "pod", p.Metadata.Name, "--watch", "--output", "json")
	n.kubectl("delete", "pod", p.Metadata.Name)
	f.log = slices.Collect(strings.Lines(follow.read()))
	f.events = parseEvents(f.log)
	for decoder := json.NewDecoder(strings.NewReader(statuses.read())); ; {
		var status pod
		if err := decoder.Decode(&status); errors.Is(err, io.EOF) {
			return f
		} else if err != nil {
			n.t.Fatal(err)
		}
		// When the object is deleted it is shown once more.
		f.last = status
	}
}

// follower is a kubectl that goes on until what it shows is gone.
type follower struct {
	n    *namespace
	cmd  *exec.Cmd
	text strings.Builder
}

func (n *namespace) follow(args ...string) *follower {
	n.t.Helper()
	f := &follower{n: n, cmd: exec.Command("kubectl", append([]string{"--kubeconfig", kubeconfig, "--namespace", n.name}, args...)...)}
	first := make(chan struct{})
	f.cmd.Stdout = &notifying{&f.text, first}
	if err := f.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = f.cmd.Process.Kill() })
	select {
	case <-first:
	case <-time.After(patience):
		n.t.Fatalf("%s shows nothing", f.cmd)
	}
	return f
}
