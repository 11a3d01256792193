"""What programs that time servers side by side have in common: rounds of slices, ratios within a round, and the machine.

All servers are alive at once, pinned to one core; loadgen, on another, drives them in many short slices of the same
fixed work. A round is one slice of each, in shuffled order. A ratio is taken within a round, between slices that are
a second apart and met the same weather, and the median over the rounds is told with the 95 % interval of a bootstrap:
absolute figures drift on a shared machine, ratios much less.
"""

import json
import os
import platform
import random
import statistics
import subprocess

import server as peers
from server import Failure

REPOSITORY = os.path.dirname(os.path.dirname(peers.HERE))
RESAMPLES = 2000


def add_arguments(parser, rounds, slice_ms):
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(REPOSITORY, "target"))
    parser.add_argument("--loadgen", metavar="PATH", default=os.path.join(target, "release", "loadgen"))
    parser.add_argument("--rounds", type=int, default=rounds, help="slices of each server in each case")
    parser.add_argument("--slice-ms", type=int, default=slice_ms, help="about how long one slice takes")
    parser.add_argument("--seed", type=int, help="of the order; chosen and printed if not given")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="every slice's figures as well")


def check(arguments):
    """Before anything is started: a measurement that cannot be made should not take minutes to say so."""
    for cpu in (arguments.server_cpu, arguments.load_cpu):
        peers.need_cpu(cpu)
    if arguments.server_cpu == arguments.load_cpu:
        raise Failure("server and loadgen need a core each")
    if arguments.rounds < 3:
        raise Failure("--rounds must be at least 3")
    if not os.access(arguments.loadgen, os.X_OK):
        raise Failure(f"no loadgen at {arguments.loadgen}: cargo build --release -p loadgen, or --loadgen PATH")
    peers.raise_descriptor_limit()


def begin(arguments):
    """The order of everything, and the conditions, which are printed."""
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 32)
    conditions = {
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "seed": seed,
        "rounds": arguments.rounds,
        "slice_ms": arguments.slice_ms,
    }
    print(", ".join(f"{name} {value}" for name, value in conditions.items()), flush=True)
    return random.Random(seed), conditions


def rounds(servers, slice_of, arguments, order):
    """The slices of each server by its name, and the share of the time that the hypervisor gave to others."""
    slices = {server.name: [] for server in servers}
    before = cpu_ticks()
    for _ in range(arguments.rounds):
        for server in order.sample(servers, len(servers)):
            slices[server.name].append(slice_of(server))
    after = cpu_ticks()
    return slices, (after["steal"] - before["steal"]) / max(1, after["all"] - before["all"])


def drive(server, target, load, arguments):
    """One slice: a run of loadgen of its own, on connections of its own, warmed up before its window."""
    command = ["taskset", "-c", str(arguments.load_cpu), arguments.loadgen, "run", target, *load]
    command += ["--warmup", "50ms", "--pid", str(server.pid), "--json", "-"]
    run = subprocess.run(command, capture_output=True, text=True)
    server.check_alive()
    result = json.loads(run.stdout) if run.stdout else {}
    # A generator short of CPU makes slices slower, not CPU per request wrong; how many there were is told.
    starved = run.returncode == 3 and result.get("limiter") == "generator's CPU"
    if run.returncode != 0 and not starved:
        raise Failure(f"{server.name}: {' '.join(command)} failed ({run.returncode}): {run.stderr.strip()}")
    if result["errors"] != 0:
        raise Failure(f"{server.name}: {result['errors']} wrong replies")
    return result


def of_each(slices, figure, order):
    """A figure of a server's slices."""
    return spread([figure(slice) for slice in slices], order)


def ratio(slices, others, figure, order):
    """How a figure of a server's slices compares to that of another's, round by round."""
    return spread([figure(own) / figure(its) for own, its in zip(slices, others)], order)


def spread(values, order):
    """Median, quartiles, and the 95 % interval of the median by bootstrap."""
    medians = sorted(statistics.median(order.choices(values, k=len(values))) for _ in range(RESAMPLES))
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    low, high = medians[round(RESAMPLES * 0.025)], medians[round(RESAMPLES * 0.975) - 1]
    return {"median": median, "q1": q1, "q3": q3, "low95": low, "high95": high, "values": values}


def cpu_ticks():
    """All CPUs' time since boot in ticks: in all, and what the hypervisor gave to others."""
    with open("/proc/stat") as stat:
        fields = [int(field) for field in stat.readline().split()[1:9]]
    return {"all": sum(fields), "steal": fields[7]}


def cpu_model():
    with open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown"


def starved(slices):
    """In how many slices the generator had too little of its core."""
    return sum(slice["verdict"] == "invalid" for slice in slices)


def in_words(value):
    """A ratio with its interval."""
    return f"{value['median']:.3f} [{value['low95']:.3f} {value['high95']:.3f}]"


def write(arguments, conditions, cases):
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"conditions": conditions, "cases": cases}, file, indent=2)
            file.write("\n")
