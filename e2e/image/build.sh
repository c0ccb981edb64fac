#!/usr/bin/env bash
# build.sh node|distroless|go|prometheus: makes an image from this machine's own
# files, so that images can be built and tested where no registry is in reach.
#
#   node        localhost/evermore-e2e-node: node, sh and a few tools, with the
#               users root, node (1000) and nobody
#   distroless  localhost/evermore-e2e-distroless: as gcr.io/distroless/nodejs, node
#               where the PATH does not lead, no shell
#   go          localhost/evermore-e2e-go: Go's toolchain and sh; modules come from
#               a module cache that the build mounts at /go/pkg/mod
#   prometheus  localhost/evermore-e2e-prometheus: as prom/prometheus
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -m 755 "$root"

# Copies programs with all the libraries they are linked to.
add() {
	local program file
	for program in "$@"; do
		file=$(readlink -f "$(type -P "$program")")
		install -D "$file" "$root/usr/bin/$program"
		# ldd fails on a static program, which needs nothing.
		{ ldd "$file" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
			install -D "$(readlink -f "$library")" "$root$library"
		done
	done
}

skeleton() {
	mkdir -p "$root"/{app,dev,etc,proc,sys,run,usr/bin} "$root/home/node"
	install -d -m 1777 "$root/tmp"
	ln -s usr/bin "$root/bin"
	cat >"$root/etc/passwd" <<-'END'
		root:x:0:0:root:/root:/bin/sh
		node:x:1000:1000::/home/node:/bin/sh
		nobody:x:65534:65534:nobody:/nonexistent:/bin/false
	END
	cat >"$root/etc/group" <<-'END'
		root:x:0:
		node:x:1000:
		nogroup:x:65534:
	END
	chown 1000:1000 "$root/home/node"
}

# Takes the place of the image made before, if there is one that differs.
import() {
	local image=localhost/evermore-e2e-$1 archive=$work/archive.tar key before
	tar -C "$root" --sort=name --mtime=@0 -cf "$archive" .
	key=$({ printf '%s\n' "${@:2}" && cat "$archive"; } | sha256sum | cut -d ' ' -f 1)
	before=$(podman image inspect --format '{{.Id}} {{.Labels.made_of}}' "$image" 2>/dev/null || true)
	if [[ ${before#* } == "$key" ]]; then
		return
	fi
	podman import --quiet "${@:2}" --change "LABEL made_of=$key" "$archive" "$image" >/dev/null
	before=${before%% *}
	# Under another name somebody still uses it.
	if [[ -n $before && $(podman image inspect --format '{{len .RepoTags}}' "$before") == 0 ]]; then
		podman rmi "$before" >/dev/null 2>&1 || true
	fi
}

case ${1:-} in
node)
	skeleton
	add node sh cat id kill ls sleep
	import node --change 'ENV PATH=/usr/bin:/bin'
	;;
distroless)
	skeleton
	add node
	mkdir -p "$root/nodejs/bin"
	mv "$root/usr/bin/node" "$root/nodejs/bin/node"
	import distroless --change 'ENTRYPOINT ["/nodejs/bin/node"]' \
		--change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' --change 'USER 65532'
	;;
go)
	skeleton
	add sh touch
	goroot=$(go env GOROOT)
	mkdir -p "$root/usr/local/go"
	tar -C "$goroot" -c --exclude ./test --exclude ./api --exclude ./src/cmd --exclude testdata . | tar -C "$root/usr/local/go" -x
	import go --change 'ENV PATH=/usr/local/go/bin:/usr/bin:/bin' --change 'ENV GOPATH=/go' \
		--change 'ENV GOPROXY=off' --change 'ENV GOTOOLCHAIN=local'
	;;
prometheus)
	skeleton
	add prometheus
	install -d -o 65534 -g 65534 "$root/prometheus"
	import prometheus --change 'ENTRYPOINT ["/usr/bin/prometheus"]' --change 'USER 65534'
	;;
*)
	echo 'usage: build.sh node|distroless|go|prometheus' >&2
	exit 2
	;;
esac
