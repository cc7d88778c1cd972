"""Processes that end with us, and what they cost: CPU time and memory."""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
LIBC = ctypes.CDLL(None)
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2)


def prepare():
    """In the child: end when we end, and have all the descriptors that there are."""
    LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL)
    raise_limit()


def raise_limit():
    """As many descriptors as may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Process:
    """A program that runs until it is stopped."""

    def __init__(self, namespace, command, log, env=None):
        self.name = os.path.basename(command[0])
        self.log = log
        with namespace, open(log, "ab") as out:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=prepare,
            )

    def check(self):
        """Raises if it has ended, with the end of its log."""
        if self.child.poll() is not None:
            with open(self.log, encoding="utf-8", errors="replace") as log:
                raise RuntimeError(f"{self.name} ended early:\n{log.read()[-2000:]}")

    def stop(self):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGTERM)
            try:
                self.child.wait(0.5)
            except subprocess.TimeoutExpired:
                os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait(10)

    def tree(self):
        """Its process and all below it."""
        children = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and (stat := read_stat(entry)):
                children.setdefault(int(stat[1]), []).append(int(entry))
        found, at = [self.child.pid], 0
        while at < len(found):
            found += children.get(found[at], [])
            at += 1
        return found

    def cpu(self):
        """Seconds of CPU time, of user and system, of the whole tree (proc(5), utime and stime)."""
        stats = [stat for pid in self.tree() if (stat := read_stat(pid))]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / TICKS

    def pss(self):
        """Proportional resident memory of the whole tree, in bytes."""
        total = 0
        for pid in self.tree():
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        return total * 1024


def read_stat(pid):
    """The fields of /proc/PID/stat from the third on: the second may hold spaces."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def wait_for_answer(namespace, address, path, processes, seconds=20.0):
    """Until GET `path` at `address` is answered with 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode()
    deadline = time.monotonic() + seconds
    answer = b""
    while time.monotonic() < deadline:
        for process in processes:
            process.check()
        try:
            with namespace:
                connection = socket.create_connection(address, 2)
            with connection:
                connection.sendall(request)
                answer = connection.recv(4096)
                if b" 200 " in answer[:16]:
                    return
        except OSError as error:
            answer = str(error).encode()
        time.sleep(0.05)
    logs = " ".join(process.log for process in processes)
    raise RuntimeError(f"no answer from {address[0]}:{address[1]}{path} in {seconds:.0f} s: {answer!r}; see {logs}")
