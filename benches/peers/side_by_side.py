#!/usr/bin/env python3
"""Measures servers against the floors: CPU per echo, throughput and p99, side by side.

All servers are alive at once, pinned to one core; loadgen, on another, drives them in many short slices of the same
fixed work. A round is one slice of each, in shuffled order. A ratio is taken within a round, between slices that are
a second apart and met the same weather, and the median over the rounds is told with the 95 % interval of a bootstrap:
absolute figures drift on a shared machine, ratios much less.

Replies are verified by loadgen; one wrong byte ends everything.
"""

import json
import os
import platform
import random
import statistics
import subprocess
import sys

import server as peers
from server import Failure, Server

REPOSITORY = os.path.dirname(os.path.dirname(peers.HERE))

# name: (connections, depth, bytes)
CASES = {
    "1": (1, 1, 64),
    "50": (50, 1, 64),
    "1000": (1000, 1, 64),
    "depth16": (50, 16, 64),
    "16KiB": (50, 1, 16384),
}

FLOORS = ("floor", "phased")
RESAMPLES = 2000


def main(arguments):
    # Before anything is started: a measurement that cannot be made should not take minutes to say so.
    for cpu in (arguments.server_cpu, arguments.load_cpu):
        peers.need_cpu(cpu)
    if arguments.server_cpu == arguments.load_cpu:
        raise Failure("server and loadgen need a core each")
    if arguments.rounds < 3:
        raise Failure("--rounds must be at least 3")
    if not os.access(arguments.loadgen, os.X_OK):
        raise Failure(f"no loadgen at {arguments.loadgen}: cargo build --release -p loadgen, or --loadgen PATH")
    peers.raise_descriptor_limit()

    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 32)
    order = random.Random(seed)
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

    servers = []
    try:
        for name, command in peers.commands(arguments).items():
            servers.append(Server(name, command, ["taskset", "-c", str(arguments.server_cpu)]))
        cases = {}
        for case in arguments.case or CASES:
            cases[case] = measure_case(case, servers, arguments, order)
            print_case(case, cases[case])
    finally:
        for server in servers:
            server.stop()
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"conditions": conditions, "cases": cases}, file, indent=2)
            file.write("\n")


def measure_case(case, servers, arguments, order):
    connections, depth, size = CASES[case]
    load = ["-c", str(connections), "-d", str(depth), "-s", str(size)]
    # Fixed work: the requests that the floor answers in one slice. The same number for all, so that no server has
    # more warm caches or fewer edges than another.
    trial = drive(servers[0], load, arguments, ["-t", "500ms"])
    requests = max(connections * depth * 10, round(trial["throughput_per_s"] * arguments.slice_ms / 1000))

    slices = {server.name: [] for server in servers}
    before = cpu_ticks()
    for _ in range(arguments.rounds):
        for server in order.sample(servers, len(servers)):
            slices[server.name].append(drive(server, load, arguments, ["-n", str(requests)]))
    after = cpu_ticks()

    steal = (after["steal"] - before["steal"]) / max(1, after["all"] - before["all"])
    result = {"connections": connections, "depth": depth, "size": size, "requests_per_slice": requests}
    result["steal_share"] = steal
    result["servers"] = {name: summary(name, slices, order) for name in slices}
    return result


def drive(server, load, arguments, amount):
    """One slice: a run of loadgen of its own, on connections of its own, warmed up before its window."""
    command = ["taskset", "-c", str(arguments.load_cpu), arguments.loadgen, "run", f"echo={server.host}:{server.port}"]
    command += [*load, *amount, "--warmup", "50ms", "--pid", str(server.pid), "--json", "-"]
    run = subprocess.run(command, capture_output=True, text=True)
    server.check_alive()
    result = json.loads(run.stdout) if run.stdout else {}
    # A generator short of CPU makes slices slower, not CPU per echo wrong; how many there were is told.
    starved = run.returncode == 3 and result.get("limiter") == "generator's CPU"
    if run.returncode != 0 and not starved:
        raise Failure(f"{server.name}: {' '.join(command)} failed ({run.returncode}): {run.stderr.strip()}")
    if result["errors"] != 0:
        raise Failure(f"{server.name}: {result['errors']} wrong replies")
    return result


def summary(name, slices, order):
    cpu = [slice["server_cpu_ns_per_request"] for slice in slices[name]]
    result = {
        "cpu_ns_per_echo": spread(cpu, order),
        "throughput_per_s": spread([slice["throughput_per_s"] for slice in slices[name]], order),
        "p99_us": spread([slice["service_time_us"]["p99"] for slice in slices[name]], order),
        "starved_slices": sum(slice["verdict"] == "invalid" for slice in slices[name]),
    }
    for floor in FLOORS:
        floor_cpu = [slice["server_cpu_ns_per_request"] for slice in slices[floor]]
        result[f"cpu_over_{floor}"] = spread([own / its for own, its in zip(cpu, floor_cpu)], order)
    return result


def spread(values, order):
    """Median, quartiles, and the 95 % interval of the median by bootstrap."""
    medians = sorted(statistics.median(order.choices(values, k=len(values))) for _ in range(RESAMPLES))
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    low, high = medians[round(RESAMPLES * 0.025)], medians[round(RESAMPLES * 0.975) - 1]
    return {"median": median, "q1": q1, "q3": q3, "low95": low, "high95": high, "values": values}


def print_case(case, result):
    print(
        f"\n{case}: {result['connections']} connections, depth {result['depth']}, {result['size']} B, "
        f"{result['requests_per_slice']} echoes a slice, steal {result['steal_share']:.1%}"
    )
    print(
        f"  {'server':<12}{'CPU ns/echo':>12}{'(quartiles)':>16}{'echoes/s':>12}{'p99 µs':>10}"
        f"{'CPU ÷ floor':>14}{'[95 %]':>16}{'CPU ÷ phased':>15}{'[95 %]':>16}"
    )
    for name, row in result["servers"].items():
        cpu, throughput, p99 = row["cpu_ns_per_echo"], row["throughput_per_s"], row["p99_us"]
        quartiles = f"({cpu['q1']:.0f}..{cpu['q3']:.0f})"
        text = f"  {name:<12}{cpu['median']:>12.0f}{quartiles:>16}{throughput['median']:>12.0f}{p99['median']:>10.0f}"
        for floor, width in zip(FLOORS, (14, 15)):
            ratio = row[f"cpu_over_{floor}"]
            interval = f"[{ratio['low95']:.3f} {ratio['high95']:.3f}]"
            text += f"{ratio['median']:>{width}.3f}{interval:>16}" if name != floor else f"{'1':>{width}}{'':>16}"
        if row["starved_slices"]:
            text += f"   {row['starved_slices']} slices with a generator short of CPU"
        print(text.rstrip(), flush=True)


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


if __name__ == "__main__":
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(REPOSITORY, "target"))
    parser = peers.parser(__doc__.splitlines()[0])
    parser.add_argument("--loadgen", metavar="PATH", default=os.path.join(target, "release", "loadgen"))
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable; all if none is given")
    parser.add_argument("--rounds", type=int, default=30, help="slices of each server in each case")
    parser.add_argument("--slice-ms", type=int, default=300, help="about how long one slice takes")
    parser.add_argument("--seed", type=int, help="of the order; chosen and printed if not given")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="every slice's figures as well")
    peers.main(main, parser)
