#!/bin/sh
# Once: waits for the control plane, then applies what setup.sh wrote.
set -eu
export COUNTERSIGN_CONTEXT=/state/control-plane/operator.yaml
tries=0
until countersign status >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || {
        countersign status
        exit 1
    }
    sleep 1
done
countersign apply -f /state/policy/mesh.yaml
