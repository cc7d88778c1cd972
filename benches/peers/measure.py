"""One sample of one pair: every measure once, each just after the same without a proxy."""

import time

import load
import places

PACE = 2000
PACED_CONNECTIONS = 32
HELD_HOPS = 300
# What a connection holds in a proxy settles in this time.
SETTLE = 1.0


class Sampler:
    """Takes measures of pairs. `seconds` is how long each loads the proxies."""

    def __init__(self, setting, origin, seconds, idle):
        self.setting = setting
        self.origin = origin
        self.seconds = seconds
        self.idle = idle
        self.client = setting.network.client

    def sample(self, kind, wanted):
        """Starts a pair afresh and takes the measures that are wanted, by name."""
        taken = {}
        # Memory first, of proxies that have done nothing yet.
        if wanted & {"idle", *STEADY}:
            with kind(self.setting) as pair:
                if "idle" in wanted:
                    taken["idle"] = self.held(pair)
                for name in STEADY:
                    if name in wanted:
                        taken[name] = STEADY[name](self, pair)
                        pair.check()
        if "hops" in wanted:
            with kind(self.setting, hops=True) as pair:
                taken["hops"] = self.opened(pair)
        return taken

    def requests(self, pair, connections):
        return self.rates(lambda address, seconds, cpu: load.requests(
            self.client, address, connections, seconds, self.origin, cpu), pair)

    def new_connections(self, pair):
        return self.rates(lambda address, seconds, cpu: load.new_connections(
            self.client, address, seconds, self.origin, cpu), pair)

    def rates(self, ask, pair):
        direct = ask(places.ORIGIN, self.seconds / 2, lambda: 0.0)
        window = ask(places.A, self.seconds, pair.cpu)
        return {"rate": window.rate, "direct": window.rate / direct.rate, "cpu": window.cpu / window.requests * 1e6}

    def paced(self, pair):
        args = (PACE, PACED_CONNECTIONS, max(2.0, self.seconds))
        _, direct50, direct99 = load.paced(self.client, places.ORIGIN, *args)
        before = pair.cpu()
        count, p50, p99 = load.paced(self.client, places.A, *args)
        return {"p50": p50 - direct50, "p99": p99 - direct99, "cpu": (pair.cpu() - before) / count * 1e6}

    def bulk(self, pair, streams):
        direct = load.bulk(self.client, places.ORIGIN, streams, self.seconds / 2)[1]
        before = pair.cpu()
        total, rate = load.bulk(self.client, places.A, streams, self.seconds)
        return {"rate": rate / 1e9, "direct": rate / direct, "cpu": (pair.cpu() - before) / (total / 1e9)}

    def held(self, pair):
        time.sleep(SETTLE)
        pss = pair.memory()
        held = load.Held(self.client, places.A, self.idle)
        try:
            time.sleep(SETTLE)
            a, b = ((after - before) / self.idle / 1024 for before, after in zip(pss, pair.memory()))
        finally:
            held.close()
        time.sleep(SETTLE)
        return {"pss_a": pss[0] / 1e6, "pss_b": pss[1] / 1e6, "kb_a": a, "kb_b": b}

    def opened(self, pair):
        before = pair.cpu()
        held = load.Held(self.client, places.A, HELD_HOPS)
        try:
            return {"rate": HELD_HOPS / held.seconds, "cpu": (pair.cpu() - before) / HELD_HOPS * 1e6}
        finally:
            held.close()


STEADY = {
    "requests-1": lambda sampler, pair: sampler.requests(pair, 1),
    "requests-32": lambda sampler, pair: sampler.requests(pair, 32),
    "requests-256": lambda sampler, pair: sampler.requests(pair, 256),
    "paced": Sampler.paced,
    "bulk-1": lambda sampler, pair: sampler.bulk(pair, 1),
    "bulk-16": lambda sampler, pair: sampler.bulk(pair, 16),
    "connections": Sampler.new_connections,
}
MEASURES = ["idle", *STEADY, "hops"]
