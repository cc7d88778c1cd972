#!/bin/sh
# Once: a vendor of emulated TEEs in /state/vendor, and the policies of /config
# with its roots in /state/policy.
set -eu
mkdir -p /state/policy
[ -e /state/vendor ] || countersign emulate init /state/vendor -o json >/state/roots.json
root() {
    sed -n "s/.*\"$1\": *\"\([0-9a-f]\{64\}\)\".*/\1/p" /state/roots.json
}
intel=$(root intel)
amd=$(root amd)
for file in mesh.yaml control-plane-attestation.yaml; do
    sed -e "s/\"0\{64\}\"/\"$intel\"/" -e "s/\"f\{64\}\"/\"$amd\"/" "/config/$file" >"/state/policy/$file"
done
