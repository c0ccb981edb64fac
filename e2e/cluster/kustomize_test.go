package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each component builds with the base, and all of them do together.
func TestKustomize(t *testing.T) {
	if kubeconfig == "" {
		t.Skip(noCluster)
	}
	folders, err := os.ReadDir(filepath.Join(manifests, "components"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	cases := [][]string{nil}
	for _, folder := range folders {
		all = append(all, folder.Name())
		cases = append(cases, []string{folder.Name()})
	}
	for _, components := range append(cases, all) {
		t.Run(strings.Join(components, ","), func(t *testing.T) {
			n := &namespace{t, "any"}
			out := n.kubectl("kustomize", n.write(overlay{components: components}))
			for _, kind := range []string{"Deployment", "Service", "PodDisruptionBudget"} {
				if !strings.Contains(out, "\nkind: "+kind+"\n") {
					t.Errorf("there is no %s in:\n%s", kind, out)
				}
			}
		})
	}
}
