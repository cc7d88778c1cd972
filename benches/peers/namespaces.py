"""Two network namespaces without names, joined by veth.

Nothing has to be cleaned up: a namespace ends with the last process and the
last descriptor that hold it, and with it its interfaces, however we end.
"""

import ctypes
import os
import subprocess

CLIENT = "10.213.0.1"
SERVER = "10.213.0.2"

NEW_NETWORK = 0x40000000  # CLONE_NEWNET, sched.h
LIBC = ctypes.CDLL(None, use_errno=True)

# Each new connection of a benchmark leaves one in TIME_WAIT. Our listeners are below 20000.
SETTINGS = {
    "net/ipv4/ip_local_port_range": "20000 65000",
    "net/ipv4/tcp_tw_reuse": "1",
    "net/ipv4/tcp_max_syn_backlog": "8192",
    "net/core/somaxconn": "8192",
}


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Namespace:
    """A network namespace. `with` enters it: sockets and processes made there belong to it."""

    def __init__(self):
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            check(LIBC.unshare(NEW_NETWORK))
            self.handle = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            check(LIBC.setns(home, NEW_NETWORK))
        finally:
            os.close(home)
        self.outside = []

    def __enter__(self):
        self.outside.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        check(LIBC.setns(self.handle, NEW_NETWORK))
        return self

    def __exit__(self, *_):
        home = self.outside.pop()
        try:
            check(LIBC.setns(home, NEW_NETWORK))
        finally:
            os.close(home)

    @property
    def path(self):
        return f"/proc/{os.getpid()}/fd/{self.handle}"


class Network:
    """The client and proxy A in one namespace, proxy B and the server in the other."""

    def __init__(self):
        self.client, self.server = Namespace(), Namespace()
        with self.client:
            ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
            ip("link", "set", "veth1", "netns", self.server.path)
            set_up("veth0", CLIENT)
        with self.server:
            set_up("veth1", SERVER)


def set_up(interface, address):
    ip("link", "set", "lo", "up")
    ip("address", "add", f"{address}/24", "dev", interface)
    ip("link", "set", interface, "up")
    for name, value in SETTINGS.items():
        with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:
            file.write(value)


def ip(*words):
    subprocess.run(["ip", *words], check=True, timeout=10)
