"""Countersign beside its peers. `scripts/bench-peers` installs what is needed and starts this."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import measure
import ours
import plot
import report
from certificates import Certificates
from envoy import EnvoyConnect, EnvoyHttp, EnvoyTcp
from namespaces import Network
from origin import Origin
from others import HaproxyHttp, HaproxyTcp, NginxHttp, NginxStream
from pairs import Setting
from processes import raise_limit

KINDS = [ours.Ours, EnvoyConnect, EnvoyTcp, HaproxyTcp, NginxStream]
# Only when they are asked for.
MORE = [EnvoyHttp, HaproxyHttp, NginxHttp]


def arguments():
    names, more = ([kind.name for kind in kinds] for kinds in (KINDS, MORE))
    parser = argparse.ArgumentParser(prog="bench-peers", description=__doc__)
    parser.add_argument("--samples", type=int, default=8, help="of each pair (8)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long a measure loads the proxies (3)")
    parser.add_argument("--quick", action="store_true", help="2 samples, 1 s each: to see that it works")
    parser.add_argument("--pairs", default=",".join(names),
                        help=f"some of {', '.join(names)}, or {', '.join(more)}")
    parser.add_argument("--measures", default=",".join(measure.MEASURES), help=f"some of {', '.join(measure.MEASURES)}")
    parser.add_argument("--idle", type=int, default=2000, help="connections that are held at rest (2000)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="threads of each proxy (all cores)")
    parser.add_argument("--ours", default="target/release", metavar="DIR", help="where our programs are")
    parser.add_argument("--envoy", default="envoy", metavar="FILE", help="Envoy's program")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    parser.add_argument("--save", metavar="FILE", help="write the JSON there, whatever is printed")
    parser.add_argument("--plot", metavar="FILE", help="draw the medians there, as SVG")
    parser.add_argument("--keep", action="store_true", help="leave configurations and logs where they are")
    given = parser.parse_args()
    if given.quick:
        given.samples, given.seconds, given.idle = 2, 1.0, min(given.idle, 1000)
    given.kinds = [kind for kind in (*KINDS, *MORE) if kind.name in given.pairs.split(",")]
    given.wanted = set(given.measures.split(","))
    unknown = {*given.pairs.split(","), *given.wanted} - {*names, *more, *measure.MEASURES}
    if unknown:
        parser.error(f"not known: {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    return given


def run(given, directory):
    """All samples: pair -> one sample for each round."""
    network = Network()
    programs = {"ours": os.path.abspath(given.ours), "envoy": given.envoy}
    certificates = Certificates(os.path.join(directory, "certificates"))
    setting = Setting(network, directory, certificates, given.workers, programs)
    samples = {kind.name: [] for kind in given.kinds}
    origin = Origin(setting)
    try:
        sampler = measure.Sampler(setting, origin, given.seconds, given.idle)
        for at in range(given.samples):
            # The order alternates, so that nobody always follows the same one.
            for kind in given.kinds if at % 2 == 0 else reversed(given.kinds):
                print(f"sample {at + 1} of {given.samples}: {kind.name}", file=sys.stderr, flush=True)
                samples[kind.name].append(attempt(sampler, kind, given.wanted))
    finally:
        ours.stop()
        origin.stop()
    return samples


def attempt(sampler, kind, wanted):
    """A sample, or an empty one that says why: a machine that is too busy need not end the run."""
    try:
        return sampler.sample(kind, wanted)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"  lost: {error}", file=sys.stderr, flush=True)
        return {}


def main():
    given = arguments()
    raise_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = tempfile.mkdtemp(prefix="bench-peers-")
    try:
        samples = run(given, directory)
    finally:
        if given.keep:
            print(f"kept: {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory)
    settings = {key: getattr(given, key) for key in ("samples", "seconds", "idle", "workers")}
    text = json.dumps(report.document(samples, given.kinds, settings), indent=1)
    if given.save:
        with open(given.save, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    if given.plot:
        with open(given.plot, "w", encoding="utf-8") as file:
            file.write(plot.draw(samples, given.kinds))
    print(text if given.output == "json" else "\n".join(report.table(samples, given.kinds)))
    if any(sample == {} for taken in samples.values() for sample in taken):
        sys.exit("some samples were lost")


if __name__ == "__main__":
    main()
