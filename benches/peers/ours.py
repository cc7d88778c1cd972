"""Countersign, with attestation: emulated machines, rounds every 30 s both ways."""

import json
import os
import subprocess

import places
from namespaces import SERVER
from pairs import TUNNEL, Pair
from processes import Process, wait_for_answer

DOMAIN = "bench.example"
PLANE = (SERVER, 15012)
READY = 15013
PROXY_READY = 15021


class Mesh:
    """A vendor of emulated machines and a control plane, next to the server. Once for a run."""

    def __init__(self, setting):
        self.setting = setting
        self.directory = os.path.join(setting.directory, "mesh")
        os.makedirs(self.directory)
        self.root = json.loads(self.countersign("emulate", "init", self["vendor"], "-o", "json"))["roots"]["intel"]
        self.write("control-plane.yaml", CONTROL_PLANE)
        command = [self.program("countersign-control-plane"), "--config", self["control-plane.yaml"], "--log", "warn"]
        self.process = Process(setting.network.server, command, self["control-plane.log"])
        try:
            wait_for_answer(setting.network.server, ("127.0.0.1", READY), "/healthz/ready", [self.process])
            self.write("mesh.yaml", RESOURCES.replace("ROOT", self.root))
            context = self["state/operator.yaml"]
            self.countersign("apply", "-f", self["mesh.yaml"], "--context", context)
        except BaseException:
            self.stop()
            raise

    def __getitem__(self, name):
        return os.path.join(self.directory, name)

    def write(self, name, text):
        with open(self[name], "w", encoding="utf-8") as file:
            file.write(text)

    def program(self, name):
        return os.path.join(self.setting.programs["ours"], name)

    def countersign(self, *words):
        with self.setting.network.server:
            done = subprocess.run([self.program("countersign"), *words], capture_output=True, text=True,
                                  timeout=60, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"countersign {' '.join(words)}: {done.stderr}")
        return done.stdout

    def stop(self):
        self.process.stop()


class Ours(Pair):
    """Two proxies as docs/operators.md sets them up."""

    name = "countersign"
    shape = TUNNEL
    mesh = None

    def __enter__(self):
        if Ours.mesh is None:
            Ours.mesh = Mesh(self.setting)
        return super().__enter__()

    def commands(self):
        hop = INBOUND.format(listen=places.text(places.B), port=places.ORIGIN[1])
        caller = OUTBOUND.format(listen=places.text(places.A), address=places.text(places.B), port=places.ORIGIN[1])
        return [self.run("server", hop), self.run("client", caller)]

    def run(self, name, specifics):
        streams = 1 if self.hops else 20000
        state = self.setting.path(f"countersign-{name}")
        text = PROXY.format(name=name, mesh=self.mesh.directory, state=state, plane=places.text(PLANE),
                            specifics=specifics, streams=streams, root=self.mesh.root)
        config = self.setting.write(f"countersign-{name}.yaml", text)
        command = [self.mesh.program("countersign-proxy"), "--config", config, "--log", "warn"]
        # One record for each stream is what nobody else writes here.
        return [*command, "--workers", str(self.setting.workers)], None


def stop():
    """Ends the control plane, if there is one."""
    if Ours.mesh is not None:
        Ours.mesh.stop()


CONTROL_PLANE = f"""apiVersion: countersign.dev/v1alpha1
kind: ControlPlaneBootstrap
spec:
  trustDomain: {DOMAIN}
  listen: {SERVER}:{PLANE[1]}
  stateDir: state
  collateralDir: vendor/collateral
  attester: {{ emulated: {{ vendor: vendor, tdx: {{}} }} }}
"""

PROXY = f"""apiVersion: countersign.dev/v1alpha1
kind: ProxyBootstrap
spec:
  name: {{name}}
  workload: bench/{{name}}
  trustBundle: {{mesh}}/state/bundle.json
  stateDir: {{state}}
  controlPlane:
    address: {{plane}}
    id: spiffe://{DOMAIN}/countersign/control-plane
    attestation: {{mesh}}/state/control-plane-attestation.yaml
    collateral: {{mesh}}/vendor/collateral
  attester: {{{{ emulated: {{{{ vendor: {{mesh}}/vendor, tdx: {{{{}}}} }}}} }}}}
  limits: {{{{ streamsPerHop: {{streams}}, hops: 20000 }}}}
{{specifics}}"""

INBOUND = """  inbound:
    listen: {listen}
    ports: [{port}]
"""

OUTBOUND = f"""  outbound:
    - listen: {{listen}}
      to: spiffe://{DOMAIN}/server
      address: {{address}}
      port: {{port}}
"""

RESOURCES = f"""apiVersion: countersign.dev/v1alpha1
kind: TrustDomain
metadata: {{ name: {DOMAIN} }}
spec: {{}}
---
apiVersion: countersign.dev/v1alpha1
kind: ReferenceValues
metadata: {{ name: guest, namespace: bench }}
spec:
  tdx:
    - {{ name: emulated guest, mrTd: "{"d0" * 48}" }}
---
apiVersion: countersign.dev/v1alpha1
kind: AttestationPolicy
metadata: {{ name: guest, namespace: bench }}
spec:
  continuous: {{ interval: 30s }}
  anyOf:
    - tdx: {{ emulatedRoots: ["ROOT"], measurements: {{ fromReferenceValues: guest }} }}
---
apiVersion: countersign.dev/v1alpha1
kind: WorkloadIdentity
metadata: {{ name: client, namespace: bench }}
spec: {{ spiffeId: "spiffe://{DOMAIN}/client", attestation: {{ policy: guest }} }}
---
apiVersion: countersign.dev/v1alpha1
kind: WorkloadIdentity
metadata: {{ name: server, namespace: bench }}
spec: {{ spiffeId: "spiffe://{DOMAIN}/server", labels: {{ app: server }}, attestation: {{ policy: guest }} }}
---
apiVersion: countersign.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{ name: server, namespace: bench }}
spec:
  selector: {{ matchLabels: {{ app: server }} }}
  rules:
    - from: [{{ principals: ["spiffe://{DOMAIN}/client"] }}]
      to: [{{ ports: [{places.ORIGIN[1]}] }}]
"""
