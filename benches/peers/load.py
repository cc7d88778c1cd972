"""Load, made in the client's namespace. Each kind answers with what was done and how long it took."""

import math
import select
import selectors
import socket
import subprocess
import time
from collections import deque

from places import text
from processes import prepare

CHUNK = 1 << 20
WARM_UP = 0.3
ASK = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
OK = b" 200 "


def run(namespace, command, seconds, meanwhile=None):
    """A load generator that must end by itself: what it printed, and what `meanwhile` answers."""
    with namespace:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                 preexec_fn=prepare)
    try:
        answer = meanwhile() if meanwhile else None
        out, _ = child.communicate(timeout=seconds + 30)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {out[-1000:]}")
    return out, answer


class Window:
    """From the middle of a load: how many requests the server answered, in what time, for how much CPU time."""

    def __init__(self, origin, cpu, seconds):
        _, requests = origin.status()
        spent, begin = cpu(), time.monotonic()
        time.sleep(seconds)
        self.requests = origin.status()[1] - requests
        self.seconds = time.monotonic() - begin
        self.cpu = cpu() - spent
        if self.requests == 0:
            raise RuntimeError("nothing was answered")

    @property
    def rate(self):
        return self.requests / self.seconds


def requests(namespace, address, connections, seconds, origin, cpu):
    """As many as go; each connection asks again when it was answered. Measured when all are open."""

    def meanwhile():
        origin.wait_for(connections)
        return Window(origin, cpu, seconds)

    # The time until all connections are open is not known.
    return wrk(namespace, address, connections, seconds + (1 if connections < 100 else 2), [], meanwhile)


def new_connections(namespace, address, seconds, origin, cpu, at_once=16):
    """The same with a new connection for each request."""

    def meanwhile():
        time.sleep(WARM_UP)
        return Window(origin, cpu, seconds)

    return wrk(namespace, address, at_once, seconds + 1, ["-H", "Connection: close"], meanwhile)


def wrk(namespace, address, connections, seconds, options, meanwhile):
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{math.ceil(seconds)}s", *options]
    out, window = run(namespace, [*command, f"http://{text(address)}/"], seconds, meanwhile)
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(f"{' '.join(command)}: {out}")
    return window


def paced(namespace, address, rate, connections, seconds):
    """One request each 1/`rate` s on whichever connection is free: (requests, p50, p99) in us.

    A request that found no connection free has waited since it was due. h2load
    cannot do this: all its connections ask at the same moments.
    """
    free = [connect(namespace, address) for _ in range(connections)]
    busy, latencies, due_since = {}, [], deque()
    count, sent, begin = round(rate * seconds), 0, time.monotonic()
    try:
        while len(latencies) < count:
            now = time.monotonic()
            while sent < count and begin + sent / rate <= now:
                if free:
                    connection = free.pop()
                    connection.sendall(ASK)
                    # That we wake up late is not the proxies' doing.
                    busy[connection] = now
                else:
                    due_since.append(begin + sent / rate)
                sent += 1
            wait = max(0.0, begin + sent / rate - time.monotonic()) if sent < count else 5.0
            # epoll would round the wait to milliseconds.
            ready, _, _ = select.select(list(busy), [], [], wait)
            if not ready and sent == count:
                raise RuntimeError(f"{count - len(latencies)} requests were not answered")
            for connection in ready:
                if OK not in connection.recv(4096)[:16]:
                    raise RuntimeError("a paced request was not answered with 200")
                latencies.append(time.monotonic() - busy.pop(connection))
                if due_since:
                    connection.sendall(ASK)
                    busy[connection] = due_since.popleft()
                else:
                    free.append(connection)
    finally:
        for connection in [*free, *busy]:
            connection.close()
    # The first fifth is for warming up.
    latencies = sorted(latencies[count // 5:])
    return count, latencies[len(latencies) // 2] * 1e6, latencies[len(latencies) * 99 // 100] * 1e6


def bulk(namespace, address, streams, seconds):
    """Downloads over `streams` connections, read by one thread that throws all away: bytes per second."""
    # Answered one after the other; more than there is time for.
    ask = b"GET /bulk HTTP/1.1\r\nHost: bench\r\n\r\n" * 64
    buffer = bytearray(CHUNK)
    with selectors.DefaultSelector() as selector:
        connections = [connect(namespace, address) for _ in range(streams)]
        try:
            for connection in connections:
                connection.sendall(ask)
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ)
            total, begin = 0, time.monotonic()
            end = begin + seconds
            while (now := time.monotonic()) < end:
                for key, _ in selector.select(end - now):
                    read = key.fileobj.recv_into(buffer)
                    if read == 0:
                        raise RuntimeError(f"a download from {text(address)} ended early")
                    total += read
            return total, total / (now - begin)
        finally:
            for connection in connections:
                connection.close()


def connect(namespace, address):
    with namespace:
        return socket.create_connection(address, 10)


class Held:
    """Connections that have each carried one request and stay open."""

    def __init__(self, namespace, address, count):
        self.connections = []
        begin = time.monotonic()
        with selectors.DefaultSelector() as selector, namespace:
            for _ in range(count):
                connection = socket.socket()
                connection.setblocking(False)
                connection.connect_ex(address)
                self.connections.append(connection)
                selector.register(connection, selectors.EVENT_WRITE)
            left = count
            while left:
                ready = selector.select(30)
                if not ready:
                    raise RuntimeError(f"{left} of {count} connections were not answered in 30 s")
                for key, event in ready:
                    if event & selectors.EVENT_WRITE:
                        key.fileobj.send(ASK)
                        selector.modify(key.fileobj, selectors.EVENT_READ)
                    else:
                        if OK not in key.fileobj.recv(4096)[:16]:
                            raise RuntimeError("a held connection was not answered with 200")
                        selector.unregister(key.fileobj)
                        left -= 1
        self.seconds = time.monotonic() - begin

    def close(self):
        for connection in self.connections:
            connection.close()
