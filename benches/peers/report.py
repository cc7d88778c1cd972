"""Medians and spread, as a table for people and as JSON for programs."""

import os
import platform
import subprocess
import time
from statistics import median

from goals import judge
from pairs import SHAPES, TUNNEL

# Figures of a measure, their heading, and how many decimals.
RATE = [("rate", "per s", 0), ("direct", "to direct", 2), ("cpu", "CPU us", 1)]
BULK = [("rate", "GB/s", 3), ("direct", "to direct", 2), ("cpu", "CPU s/GB", 2)]
TABLES = {
    "requests-1": ("requests, 1 connection", RATE),
    "requests-32": ("requests, 32 connections", RATE),
    "requests-256": ("requests, 256 connections", RATE),
    "paced": ("2,000 requests a second", [("p50", "added p50 us", 0), ("p99", "added p99 us", 0), ("cpu", "CPU us", 1)]),
    "bulk-1": ("bulk, 1 stream", BULK),
    "bulk-16": ("bulk, 16 streams", BULK),
    "connections": ("new client connections", RATE),
    "hops": ("new hops", [("rate", "per s", 0), ("cpu", "CPU us", 0)]),
    "idle": ("at rest", [("pss_a", "A MB PSS", 1), ("pss_b", "B MB PSS", 1),
                         ("kb_a", "A KB/conn", 1), ("kb_b", "B KB/conn", 1)]),
}
WIDTH = 26


def summary(samples):
    """pair -> measure -> figure -> {median, least, most, samples}."""
    result = {}
    for pair, taken in samples.items():
        for sample in taken:
            for measure, figures in sample.items():
                for figure, value in figures.items():
                    result.setdefault(pair, {}).setdefault(measure, {}).setdefault(figure, []).append(value)
    for measures in result.values():
        for figures in measures.values():
            for figure, values in figures.items():
                figures[figure] = {"median": median(values), "least": min(values), "most": max(values),
                                   "samples": len(values)}
    return result


def document(samples, kinds, settings):
    """All of a run, for programs."""
    return {
        "machine": machine(),
        "settings": settings,
        "shapes": {kind.name: kind.shape for kind in kinds},
        "summary": summary(samples),
        "goals": [dict(zip(("measure", "figure", "goal", "peer", "value", "reached"), goal))
                  for goal in judge(samples, *sides(kinds))],
        "samples": samples,
    }


def sides(kinds):
    """Our name, and those of the peers of our shape."""
    ours = next((kind for kind in kinds if kind.name == "countersign"), None)
    peers = [kind.name for kind in kinds if ours and kind is not ours and kind.shape == ours.shape]
    return (ours.name if ours else ""), peers


def machine():
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "kernel": platform.release(),
        "versions": {name: version(command) for name, command in VERSIONS.items()},
    }


VERSIONS = {"nginx": ["nginx", "-v"], "haproxy": ["/usr/sbin/haproxy", "-v"]}


def version(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return (done.stdout or done.stderr).splitlines()[0]


def cell(figure, decimals):
    middle, least, most = (f"{figure[key]:,.{decimals}f}" for key in ("median", "least", "most"))
    return middle if figure["samples"] == 1 else f"{middle} ({least}..{most})"


def table(samples, kinds):
    """Lines for a terminal."""
    numbers = summary(samples)
    for measure, (title, figures) in TABLES.items():
        rows = [kind for kind in kinds if measure in numbers.get(kind.name, {})]
        if not rows:
            continue
        yield f"{title:<30}" + "".join(f"{heading:>{WIDTH}}" for _, heading, _ in figures)
        for kind in rows:
            cells = (cell(numbers[kind.name][measure][name], decimals) for name, _, decimals in figures)
            yield f"  {kind.name + ', ' + kind.shape:<28}" + "".join(f"{text:>{WIDTH}}" for text in cells)
        yield ""
    goals = list(judge(samples, *sides(kinds)))
    if goals:
        yield f"goals, against the best peer of the same shape: {SHAPES[TUNNEL]}"
    for measure, figure, goal, peer, value, reached in goals:
        against = f" of {peer}" if peer else ""
        mark = "reached" if reached else "MISSED"
        yield f"  {measure + ' ' + figure:<28}{goal + against:<34}{value:>8.2f}  {mark}"
