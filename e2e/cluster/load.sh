#!/usr/bin/env bash
# load.sh IMAGE...: brings images from podman's store into the node. A pod names
# them in full (localhost/x:tag), with imagePullPolicy: Never.
set -euo pipefail
# shellcheck source=e2e/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

for image in "$@"; do
	archive=$(mktemp --dry-run "$run/image.XXXXXX")
	trap 'rm -f "$archive"' EXIT
	podman save --quiet --format oci-archive --output "$archive" "$image"
	ctr --address "$containerd" --namespace k8s.io images import "$archive" >/dev/null
	rm "$archive"
done
