"""The server behind all pairs: nginx. It also counts what arrives."""

import os
import re
import socket
import time

import places
from processes import Process, wait_for_answer

BULK = 256 << 20
SETTLED = 0.5


class Origin:
    """Answers 12 bytes at /, has a large file at /bulk, and says at /status what it has done."""

    def __init__(self, setting):
        self.namespace = setting.network.server
        root = os.path.join(setting.directory, "origin")
        os.makedirs(root)
        bulk = os.path.join(root, "bulk")
        with open(bulk, "wb") as file:
            file.truncate(BULK)
        # From now on it is in the page cache.
        with open(bulk, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
        command = ["nginx", "-e", "stderr", "-p", root, "-c", setting.write("origin.conf", CONFIG.format(root=root))]
        self.process = Process(self.namespace, command, setting.path("origin.log"))
        wait_for_answer(setting.network.client, places.ORIGIN, "/", [self.process])

    def status(self):
        """(connections that are open, requests so far), without those of this question."""
        with self.namespace:
            connection = socket.create_connection(places.STATUS, 10)
        with connection, connection.makefile("rb") as answer:
            connection.sendall(b"GET /status HTTP/1.0\r\n\r\n")
            active, requests = re.search(STATUS, answer.read().decode()).groups()
        self.asked = getattr(self, "asked", 0) + 1
        return int(active) - 1, int(requests) - self.asked

    def wait_for(self, connections):
        """Until so many connections are open, or no more come: proxies that understand HTTP need fewer."""
        there, since = 0, time.monotonic()
        while there < connections and time.monotonic() - since < SETTLED:
            now, _ = self.status()
            if now > there:
                there, since = now, time.monotonic()
            time.sleep(0.02)

    def stop(self):
        self.process.stop()


# stub_status: the third number of the third line is that of requests.
STATUS = r"Active connections: (\d+) \n.*\n \d+ \d+ (\d+) \n"

CONFIG = f"""
user root;
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
pid {{root}}/pid;
events {{{{ worker_connections 19000; }}}}
http {{{{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    keepalive_timeout 600;
    server {{{{
        listen {places.ORIGIN[1]} backlog=8192;
        root {{root}};
        location = / {{{{ default_type text/plain; return 200 "hello, peers"; }}}}
        location = /bulk {{{{ }}}}
    }}}}
    server {{{{
        listen {places.text(places.STATUS)};
        location = /status {{{{ stub_status; }}}}
    }}}}
}}}}
"""
