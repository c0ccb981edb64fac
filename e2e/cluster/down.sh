#!/usr/bin/env bash
# Ends the cluster that up.sh has started and removes all that it wrote and
# changed. What was built stays.
set -euo pipefail
# shellcheck source=e2e/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

containers() { ctr --address "$containerd" --namespace k8s.io "$@"; }

# The kubelet first: it would start again what is ended here.
stop kubelet
if is_alive containerd; then
	for container in $(containers containers list --quiet); do
		containers tasks kill --all --signal SIGKILL "$container" || true
		containers tasks delete --force "$container" || true
		containers containers delete "$container" || true
	done >/dev/null 2>&1
fi
stop kube-proxy
for name in kube-scheduler kube-controller-manager kube-apiserver etcd containerd; do
	stop "$name"
done

# kube-proxy's chains, and the rules that lead to them.
for command in iptables ip6tables; do
	"$command-save" 2>/dev/null | grep -vE '(^:| )KUBE-' | "$command-restore" 2>/dev/null || true
done

# Volumes, namespaces and root file systems of containers that were killed.
awk -v root="$root/" 'index($2, root) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mount; do
	umount "$mount" || umount --lazy "$mount"
done
ip link delete "$bridge" 2>/dev/null || true
# cgroup v2 has one tree, v1 one for each controller.
for tree in /sys/fs/cgroup{,/*}/kubepods; do
	[[ ! -d $tree ]] || find "$tree" -depth -type d -exec rmdir {} + 2>/dev/null || true
done
if [[ -e $run/sysctl ]]; then
	while read -r name value; do
		echo "$value" >"/proc/sys/$name"
	done <"$run/sysctl"
fi
rm -rf "$etc" "$run" "$log" "$var"
