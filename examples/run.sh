#!/bin/sh
# What `make run` does once peapod is built: a cluster of one node in the background, and a Pod on it.
set -eu
peapod=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
data=${PEAPOD_DATA_DIR:-/var/lib/peapod}
log=$data/server.log

"$peapod" check
if ! "$peapod" status >/dev/null 2>&1; then
	mkdir -p -m 700 "$data"
	# A machine to try things on may have a fuller disk than Kubernetes' default allows, which is 85 %.
	setsid "$peapod" server --eviction-hard='memory.available<100Mi,nodefs.available<3%,imagefs.available<3%' >>"$log" 2>&1 </dev/null &
	"$peapod" status --wait 60s || { tail -n 20 "$log"; exit 1; }
fi
"$peapod" kubectl apply -f "$here/hello.yaml"
"$peapod" kubectl wait --for=condition=Ready pod/hello --timeout=60s || { "$peapod" kubectl describe pod hello; exit 1; }
"$peapod" kubectl get pods -o wide
"$peapod" kubectl logs hello
cat <<T

The cluster runs in the background; its log is $log.
  go on:    $1 kubectl get pods -A        (any kubectl: export KUBECONFIG=$data/admin.kubeconfig)
            $1 kubectl apply -f examples/
  stop:     make stop                     (Pods too; what was declared stays)
  remove:   $1 uninstall
T
