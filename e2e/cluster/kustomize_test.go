package cluster

import (
	"errors"
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

// The kustomization that the README shows builds, and its name and label are
// everywhere.
func TestReadmesKustomization(t *testing.T) {
	if kubeconfig == "" {
		t.Skip(noCluster)
	}
	readme, err := os.ReadFile(filepath.Join(manifests, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(readme), "```yaml\n# kustomization.yaml\n")
	text, _, _ = strings.Cut(text, "```\n")
	dir := t.TempDir()
	if err := errors.Join(
		os.CopyFS(filepath.Join(dir, "kubernetes"), os.DirFS(manifests)),
		os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	n := &namespace{t, "any"}
	out := n.kubectl("kustomize", dir)
	objects := strings.Count(out, "\nkind: ")
	for _, want := range []string{"\n  name: shop-app\n", "\n  namespace: shop\n", "\n    app.kubernetes.io/instance: shop\n"} {
		if got := strings.Count(out, want); got < objects {
			t.Errorf("%q is there %d times in %d objects:\n%s", want, got, objects, out)
		}
	}
	if !strings.Contains(out, "image: registry.example.com/shop:1.4.2\n") || !strings.Contains(out, "value: postgres://db/shop\n") {
		t.Errorf("the image or the patch is not in:\n%s", out)
	}
}
