package nodetest

import (
	"os/exec"
	"strings"
	"testing"
)

func TestNode(t *testing.T) {
	for _, line := range Lines {
		out, err := exec.Command(Node(t, line), "--version").Output()
		if err != nil || !strings.HasPrefix(string(out), "v"+line+".") {
			t.Errorf("node %s says %q, %v", line, out, err)
		}
	}
}
