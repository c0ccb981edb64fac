#!/usr/bin/env bash
# Builds Kubernetes from its Go modules, once: about ten minutes on two processors.
# No other source is needed, as Go's module proxy has the whole of it.
set -euo pipefail
# shellcheck source=e2e/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

version=1.34.4
programs=(kubelet kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl)

export CGO_ENABLED=0 GOTOOLCHAIN=local GOWORK=off GOFLAGS=-buildvcs=false
mkdir -p "$bin" "$images" "$src" "$log"

# Kubernetes' own go.mod, with its pinned versions. The modules that it keeps in
# ./staging are published as v0 of the same release.
module() {
	local dir
	dir=$(cd / && go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
	sed -e 's|^module .*|module cluster|' -e '/^godebug /d' \
		-e "s|=> ./staging/src/\(k8s.io/[a-z-]*\)|=> \1 v0.${version#1.}|" "$dir/go.mod" >"$src/go.mod"
	install -m 644 "$dir/go.sum" "$src/go.sum"
	(cd "$src" && go mod edit -require "k8s.io/kubernetes@v$version")
}

build() {
	local flags='-s -w' package
	for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$version")"
		flags+=" -X $package.gitTreeState=clean -X $package.gitCommit=module"
	done
	(cd "$src" && nice go build -mod=mod -trimpath -ldflags "$flags" -o "$bin/$1" "k8s.io/kubernetes/cmd/$1") >"$log/build-$1.log" 2>&1 ||
		die "cannot build $1: $(tail -n 5 "$log/build-$1.log")"
	echo "v$version" >"$bin/.$1.version"
}

lacking=()
for program in "${programs[@]}"; do
	[[ $(cat "$bin/.$program.version" 2>/dev/null) == "v$version" ]] || lacking+=("$program")
done
if ((${#lacking[@]})); then
	module
	for program in "${lacking[@]}"; do
		SECONDS=0
		build "$program"
		say "built $program $version in $SECONDS s"
	done
fi

# Every pod has a container that holds its namespaces.
if [[ ! -e $images/pause.tar ]]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	(cd "$(dirname "$0")" && go build -trimpath -ldflags '-s -w' -o "$work/pause" ./pause)
	printf 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n' >"$work/Dockerfile"
	podman build --quiet --tag localhost/evermore-e2e-pause "$work" >/dev/null
	podman save --quiet --format oci-archive --output "$work/pause.tar" localhost/evermore-e2e-pause
	podman rmi localhost/evermore-e2e-pause >/dev/null
	mv "$work/pause.tar" "$images/pause.tar"
fi
