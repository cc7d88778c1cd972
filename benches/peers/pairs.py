"""What is compared: a proxy next to the client, and another next to the server."""

import os

import places
from processes import Process, wait_for_answer

TUNNEL = "tunnel"
PER_CONNECTION = "connection"
L7 = "l7"
SHAPES = {
    TUNNEL: "streams in a pooled connection (HTTP/2 CONNECT)",
    PER_CONNECTION: "a TLS connection for each connection of a client",
    L7: "HTTP, understood at both ends",
}


class Setting:
    """What all pairs of a run share."""

    def __init__(self, network, directory, certificates, workers, programs):
        self.network = network
        self.directory = directory
        self.certificates = certificates
        self.workers = workers
        # Where the programs are that no package brings: "envoy" and "ours".
        self.programs = programs
        self.count = 0

    def path(self, name):
        """A new place for a file of a pair that is started afresh."""
        self.count += 1
        return os.path.join(self.directory, f"{self.count:04}-{name}")

    def write(self, name, text):
        path = self.path(name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path


class Pair:
    """Two proxies that run. Subclasses say by which commands.

    `hops` asks for a connection of its own between the proxies for each of the client's.
    """

    name = ""
    shape = ""

    def __init__(self, setting, hops=False):
        self.setting = setting
        self.hops = hops
        self.processes = []

    def commands(self):
        """Command and environment of B, then of A."""
        raise NotImplementedError

    def __enter__(self):
        try:
            network = self.setting.network
            for side, namespace, (command, env) in zip("BA", (network.server, network.client), self.commands()):
                log = self.setting.path(f"{self.name}-{side}.log")
                self.processes.append(Process(namespace, command, log, env))
            wait_for_answer(network.client, places.A, "/", self.processes)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.stop()

    def check(self):
        for process in self.processes:
            process.check()

    def cpu(self):
        """CPU seconds of both so far."""
        return sum(process.cpu() for process in self.processes)

    def memory(self):
        """Bytes of A and of B."""
        b, a = self.processes
        return a.pss(), b.pss()
