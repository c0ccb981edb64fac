#!/usr/bin/env bash
# test.sh [ARG...]: runs the tests of this folder in a cluster, with arguments for
# go test, and ends the cluster unless it was up before. Where none can be had it
# says why and succeeds; with CI=true it fails.
#
# test.sh --estimate: how many seconds that takes, about; more before Kubernetes is
# built.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=e2e/cluster/lib.sh
. ./lib.sh

if [[ ${1:-} == --estimate ]]; then
	[[ -e $bin/.kubectl.version ]] && echo 420 || echo 1080
	exit
fi

# A control group is made where containerd will make those of pods.
groups() {
	local tree=/sys/fs/cgroup
	[[ ! -d $tree/memory ]] || tree+=/memory
	mkdir "$tree/evermore-e2e" && rmdir "$tree/evermore-e2e"
} 2>/dev/null

lacks=
if ((EUID != 0)); then
	lacks='only root can start a cluster'
elif ! command -v apt-get >/dev/null; then
	lacks='its packages are known by their names in Debian'
elif ! groups; then
	lacks='control groups cannot be made here'
fi
if [[ -n $lacks ]]; then
	say "the tests in a cluster are left out: $lacks"
	[[ ${CI:-} != true ]]
	exit
fi

is_alive kubelet || trap ./down.sh EXIT
trap 'exit 130' INT TERM
EVERMORE_E2E_KUBECONFIG=$(./up.sh)
export EVERMORE_E2E_KUBECONFIG
PATH=$bin:$PATH go test -count=1 "$@" .
