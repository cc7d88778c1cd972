"""What we want to reach against the best peer of the same shape in the same run."""

from statistics import median

# measure, figure, at least or at most, the peer's by this factor
LEAST, MOST = "at least", "at most"
GOALS = [
    *((f"requests-{n}", "rate", LEAST, 1.2) for n in (1, 32, 256)),
    *((f"requests-{n}", "cpu", MOST, 0.8) for n in (32, 256)),
    ("paced", "cpu", MOST, 0.8),
    ("paced", "p50", MOST, 0.8),
    ("paced", "p99", MOST, 0.8),
    *((f"bulk-{n}", "rate", LEAST, 1.3) for n in (1, 16)),
    *((f"bulk-{n}", "cpu", MOST, 0.75) for n in (1, 16)),
    ("connections", "rate", LEAST, 1.2),
]
# And whatever others do: A's memory at rest in MB, and KB for a stream at rest on either side.
FIXED = [("idle", "pss_a", 12.0), ("idle", "kb_a", 5.0), ("idle", "kb_b", 5.0)]


def ratios(samples, ours, peer, measure, figure):
    """Ours to the peer's, round by round: what the machine does to one it does to the other."""
    pairs = zip(samples.get(ours, []), samples.get(peer, []))
    both = [(a[measure][figure], b[measure][figure]) for a, b in pairs if measure in a and measure in b]
    # A latency below that of direct says only that the machine was busy.
    return [a / b for a, b in both if a > 0 and b > 0]


def judge(samples, ours, peers):
    """For each goal that was measured: (measure, figure, goal in words, best peer, value, reached)."""
    yield from compare(GOALS, samples, ours, peers)
    for measure, figure, limit in FIXED:
        values = [sample[measure][figure] for sample in samples.get(ours, []) if measure in sample]
        if values:
            value = median(values)
            yield measure, figure, f"at most {limit:g}", "", value, value <= limit


def compare(goals, samples, ours, peers):
    """The goals that are ratios."""
    for measure, figure, bound, factor in goals:
        against = {peer: ratios(samples, ours, peer, measure, figure) for peer in peers}
        medians = {peer: median(values) for peer, values in against.items() if values}
        if not medians:
            continue
        # The best peer is the one against whom we look worst.
        peer = (min if bound == LEAST else max)(medians, key=medians.get)
        value = medians[peer]
        reached = value >= factor if bound == LEAST else value <= factor
        yield measure, figure, f"{bound} {factor} x", peer, value, reached
