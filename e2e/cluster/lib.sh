#!/usr/bin/env bash
# Sourced by the scripts beside it: where the cluster is kept, and how its daemons
# are started and stopped.
# shellcheck disable=SC2034 # they use what is set here

# What takes long to build is in bin/ and images/, what a running cluster writes in
# the other folders, which down.sh removes.
root=$(readlink -m "${EVERMORE_E2E_CLUSTER:-${XDG_CACHE_HOME:-$HOME/.cache}/evermore-e2e-cluster}")
bin=$root/bin
images=$root/images
src=$root/src
etc=$root/etc
run=$root/run
log=$root/log
var=$root/var

containerd=$run/containerd.sock
kubeconfig=$etc/admin.kubeconfig
bridge=evermore0
# Not in use anywhere but on the bridge.
gateway=10.244.77.1
pods=10.244.77.0/24

# iptables, ip and others are there on Debian, and Go where its archive is unpacked.
export PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin

say() { echo "cluster: $*" >&2; }

die() {
	say "$*"
	exit 1
}

# is_alive NAME: the daemon runs, and its pid is not another program's by now.
is_alive() {
	local pid
	pid=$(cat "$run/$1.pid" 2>/dev/null) && [[ $(readlink "/proc/$pid/exe" 2>/dev/null) == "$(cat "$run/$1.exe")" ]]
}

# start NAME PROGRAM ARG...: a daemon that writes to log/NAME.log.
start() {
	local name=$1
	readlink -f "$(type -P "$2")" >"$run/$name.exe"
	setsid nohup "${@:2}" >"$log/$name.log" 2>&1 </dev/null &
	echo $! >"$run/$name.pid"
}

# stop NAME: SIGTERM, after 10 seconds SIGKILL.
stop() {
	local pid tries=100
	if is_alive "$1"; then
		pid=$(cat "$run/$1.pid")
		kill "$pid"
		while is_alive "$1"; do
			sleep 0.1
			((tries--)) || kill -KILL "$pid" || true
		done
	fi
}

# await SECONDS WHAT COMMAND...: until the command succeeds.
await() {
	local tries=$(($1 * 5))
	until "${@:3}" >/dev/null 2>&1; do
		((tries--)) || die "waited in vain: $2; see $log"
		sleep 0.2
	done
}
