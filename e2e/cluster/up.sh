#!/usr/bin/env bash
# Starts a real Kubernetes of one node: etcd, API server, controllers, scheduler,
# kubelet, kube-proxy, containerd and runc. As root on Debian; nothing is needed of
# systemd, of a registry or of the internet beyond Debian's and Go's. All of it
# listens on 127.0.0.1, pods have addresses on a bridge of this machine.
#
# Writes the path of the kubeconfig to stdout. A cluster that is up stays as it is.
set -euo pipefail
# shellcheck source=e2e/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

((EUID == 0)) || die 'a cluster is started by root alone'
"$(dirname "$0")/../../scripts/setup" cluster >&2
"$(dirname "$0")/build.sh"

if is_alive kubelet && "$bin/kubectl" --kubeconfig "$kubeconfig" get --raw /readyz >/dev/null 2>&1; then
	echo "$kubeconfig"
	exit
fi
# What an interrupted run has left.
"$(dirname "$0")/down.sh"

SECONDS=0
node=localhost # as the API server reaches the kubelet by its name
pki=$etc/pki
mkdir -p "$etc/cni" "$pki" "$run" "$log" "$var"
chmod 700 "$etc"

# --- who is who

# certificate NAME SUBJECT [NAMES]: signed by the cluster's own authority.
certificate() {
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" \
		-keyout "$pki/$1.key" -out "$pki/$1.csr" 2>/dev/null
	openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 365 -out "$pki/$1.crt" \
		-extfile <(printf 'keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n%s\n' "${3:+subjectAltName=$3}") 2>/dev/null
}

# client NAME SUBJECT: a certificate, and a kubeconfig with it.
client() {
	certificate "$1" "$2"
	cat >"$etc/$1.kubeconfig" <<-END
		apiVersion: v1
		kind: Config
		clusters: [{ name: e2e, cluster: { server: "https://127.0.0.1:6443", certificate-authority: $pki/ca.crt } }]
		users: [{ name: $1, user: { client-certificate: $pki/$1.crt, client-key: $pki/$1.key } }]
		contexts: [{ name: e2e, context: { cluster: e2e, user: $1 } }]
		current-context: e2e
	END
}

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=evermore-e2e \
	-keyout "$pki/ca.key" -out "$pki/ca.crt" 2>/dev/null
openssl genrsa -out "$pki/accounts.key" 2048 2>/dev/null
openssl rsa -in "$pki/accounts.key" -pubout -out "$pki/accounts.pub" 2>/dev/null
certificate apiserver /CN=kube-apiserver "DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$gateway"
certificate kubelet-server "/CN=$node" "DNS:$node,IP:127.0.0.1,IP:$gateway"
certificate apiserver-kubelet /O=system:masters/CN=apiserver-kubelet
client admin /O=system:masters/CN=admin
client kubelet "/O=system:nodes/CN=system:node:$node"
client controller-manager /CN=system:kube-controller-manager
client scheduler /CN=system:kube-scheduler
client proxy /CN=system:kube-proxy

# --- the node

cat >"$etc/containerd.toml" <<END
version = 2
root = "$var/containerd"
state = "$run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "$containerd"
[plugins."io.containerd.internal.v1.opt"]
  path = "$var/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/evermore-e2e-pause:latest"
  # Inside a container or a small virtual machine neither can be had.
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$etc/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
END

cat >"$etc/cni/10-e2e.conflist" <<END
{ "cniVersion": "0.4.0", "name": "e2e", "plugins": [
  { "type": "bridge", "bridge": "$bridge", "isGateway": true, "ipMasq": false, "hairpinMode": true,
    "ipam": { "type": "host-local", "dataDir": "$run/ipam", "ranges": [[{ "subnet": "$pods", "gateway": "$gateway" }]], "routes": [{ "dst": "0.0.0.0/0" }] } } ] }
END

echo 'nameserver 127.0.0.1' >"$etc/resolv.conf"

cat >"$etc/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
healthzBindAddress: 127.0.0.1
tlsCertFile: $pki/kubelet-server.crt
tlsPrivateKeyFile: $pki/kubelet-server.key
authentication: { anonymous: { enabled: false }, webhook: { enabled: true }, x509: { clientCAFile: $pki/ca.crt } }
authorization: { mode: Webhook }
containerRuntimeEndpoint: unix://$containerd
cgroupDriver: cgroupfs
failSwapOn: false
failCgroupV1: false
oomScoreAdj: 0
maxOpenFiles: $(ulimit -Hn)
makeIPTablesUtilChains: false
# Images were loaded by hand: they are not to be collected.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: { memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1% }
podLogsDir: $log/pods
volumePluginDir: $var/volumeplugins
resolvConf: $etc/resolv.conf
# There is none; without an address the kubelet complains of each pod.
clusterDNS: [10.96.0.10]
# Changes of ConfigMaps reach their volumes at this pace.
syncFrequency: 10s
END

cat >"$etc/proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 127.0.0.1
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
hostnameOverride: $node
mode: iptables
clusterCIDR: $pods
clientConnection: { kubeconfig: $etc/proxy.kubeconfig }
conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s }
# Neither needs the sysctl route_localnet.
nodePortAddresses: ["$pods"]
iptables: { localhostNodePorts: false }
END

# The kubelet and kube-proxy change these; down.sh puts them back.
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops net/ipv4/ip_forward net/ipv4/conf/all/route_localnet; do
	echo "$name $(cat "/proc/sys/$name")"
done >"$run/sysctl"
echo 1 >/proc/sys/net/ipv4/ip_forward
ip link add "$bridge" type bridge
ip address add "$gateway/24" dev "$bridge"
ip link set "$bridge" up

# --- the daemons

start containerd containerd --config "$etc/containerd.toml"
start etcd etcd --name e2e --data-dir "$var/etcd" --logger zap \
	--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
	--listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster e2e=http://127.0.0.1:2380
start kube-apiserver "$bin/kube-apiserver" --etcd-servers http://127.0.0.1:2379 --bind-address 127.0.0.1 --secure-port 6443 \
	--tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --client-ca-file "$pki/ca.crt" \
	--kubelet-client-certificate "$pki/apiserver-kubelet.crt" --kubelet-client-key "$pki/apiserver-kubelet.key" \
	--kubelet-certificate-authority "$pki/ca.crt" --kubelet-preferred-address-types Hostname \
	--service-account-key-file "$pki/accounts.pub" --service-account-signing-key-file "$pki/accounts.key" \
	--service-account-issuer https://kubernetes.default.svc --service-cluster-ip-range 10.96.0.0/24 \
	--authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --endpoint-reconciler-type none
await 30 'containerd serves' ctr --address "$containerd" version
ctr --address "$containerd" --namespace k8s.io images import "$images/pause.tar" >/dev/null

export KUBECONFIG=$kubeconfig
await 90 'the API server is ready' "$bin/kubectl" get --raw /readyz
start kube-controller-manager "$bin/kube-controller-manager" --kubeconfig "$etc/controller-manager.kubeconfig" \
	--bind-address 127.0.0.1 --leader-elect=false --use-service-account-credentials \
	--service-account-private-key-file "$pki/accounts.key" --root-ca-file "$pki/ca.crt"
start kube-scheduler "$bin/kube-scheduler" --kubeconfig "$etc/scheduler.kubeconfig" --bind-address 127.0.0.1 --leader-elect=false
start kubelet "$bin/kubelet" --config "$etc/kubelet.yaml" --kubeconfig "$etc/kubelet.kubeconfig" --v 2 \
	--hostname-override "$node" --node-ip "$gateway" --root-dir "$var/kubelet" --cert-dir "$var/kubelet/pki"
start kube-proxy "$bin/kube-proxy" --config "$etc/proxy.yaml" --v 1

is_schedulable() { ! "$bin/kubectl" get node "$node" -o jsonpath='{.spec.taints[*].key}' | grep -q not-ready; }
await 90 'the node is there' "$bin/kubectl" get node "$node"
"$bin/kubectl" wait --for condition=Ready "node/$node" --timeout 120s >/dev/null || die "the node does not become ready; see $log/kubelet.log"
await 60 'pods can be scheduled' is_schedulable
await 60 'the account of pods is there' "$bin/kubectl" get serviceaccount default
say "up after $SECONDS s"
echo "$kubeconfig"
