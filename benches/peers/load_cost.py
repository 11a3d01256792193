#!/usr/bin/env python3
"""Measures what driving load costs: CPU per request of loadgen and of the plain C client, in a closed loop at one server.

Both do the same: 50 connections, requests of 64 bytes, every byte of every reply compared, every service time recorded.
The server has one core, and both of them another. A round is one slice of each, the same fixed work, in shuffled order.
Ratios are taken within a round, because absolute figures drift on a shared machine and ratios much less. Told are medians
over the rounds, of the ratio with the 95 % interval of a bootstrap.
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))
RELEASE = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(REPOSITORY, "target")), "release")
CLIENT = os.path.join(HERE, "client")

# name: depth
CASES = {"depth1": 1, "depth16": 16}
CONNECTIONS, BYTES = 50, 64
RESAMPLES = 2000


def options():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for program in ("tidewheel", "loadgen"):
        built = os.path.join(RELEASE, program)
        parser.add_argument(f"--{program}", metavar="PATH", default=built, help="a release binary")
    parser.add_argument("--rounds", type=int, default=21, help="slices of each in each case")
    parser.add_argument("--slice-ms", type=int, default=300, help="about how long one slice takes")
    parser.add_argument("--seed", type=int, help="of the order; chosen and printed if not given")
    parser.add_argument("--server-cpu", type=int, default=0, help="the core of the server")
    parser.add_argument("--load-cpu", type=int, default=1, help="the core of loadgen and the client")
    parser.add_argument("--json", metavar="FILE", help="every slice's figures as well")
    asked = parser.parse_args()

    # Before anything is started: a measurement that cannot be made should not take minutes to say so.
    here = os.sched_getaffinity(0)
    for cpu in (asked.server_cpu, asked.load_cpu):
        if cpu not in here:
            parser.error(f"CPU {cpu} is not available here; there are {sorted(here)}")
    if asked.server_cpu == asked.load_cpu:
        parser.error("server and load need a core each")
    if asked.rounds < 3:
        parser.error("--rounds must be at least 3")
    build = "cargo build --release --workspace, or --{} PATH"
    for name, path, remedy in (
        ("tidewheel", asked.tidewheel, build.format("tidewheel")),
        ("loadgen", asked.loadgen, build.format("loadgen")),
        ("client", CLIENT, f"make -C {HERE}"),
    ):
        if not shutil.which(path):
            parser.error(f"no {name} at {path}: {remedy}")
    if asked.seed is None:
        asked.seed = random.randrange(1 << 32)
    return asked


def main():
    asked = options()
    conditions = {
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "seed": asked.seed,
        "rounds": asked.rounds,
        "slice_ms": asked.slice_ms,
    }
    print(", ".join(f"{name} {value}" for name, value in conditions.items()), flush=True)
    order = random.Random(asked.seed)
    # What is started has the core that this program is on at that time.
    os.sched_setaffinity(0, {asked.server_cpu})
    command = [asked.tidewheel, "serve", "--log-level", "error", "echo=127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        os.sched_setaffinity(0, {asked.load_cpu})
        try:
            port = port_of(server)
            cases = {case: measure(case, server.pid, port, asked, order) for case in CASES}
        finally:
            server.terminate()
    if asked.json:
        with open(asked.json, "w") as file:
            json.dump({"conditions": conditions, "cases": cases}, file, indent=2)
            file.write("\n")


def port_of(server):
    """Waits for `ready`. Before that the server says where it listens."""
    said = ""
    for line in server.stdout:
        if line == "ready\n":
            return re.search(r"^listening echo tcp://127\.0\.0\.1:(\d+)$", said, re.MULTILINE)[1]
        said += line
    fail(f"the server ended before it was ready; it said {said!r}")


def measure(case, server, port, asked, order):
    depth = CASES[case]

    def with_loadgen(*amount):
        """Warmed up before its window, as the client is."""
        load = ["-c", CONNECTIONS, "-d", depth, "-s", BYTES, *amount, "--warmup", "50ms"]
        command = [asked.loadgen, "run", f"echo=127.0.0.1:{port}", *load, "--pid", server, "--json", "-"]
        return run(command)

    trial = with_loadgen("-t", "500ms")
    requests = max(CONNECTIONS * depth * 10, round(trial["throughput_per_s"] * asked.slice_ms / 1000))
    drivers = {
        "client": lambda: run([CLIENT, port, CONNECTIONS, depth, BYTES, requests, requests // 10])["cpu_ns_per_request"],
        "loadgen": lambda: with_loadgen("-n", requests)["loadgen_cpu_ns_per_request"],
    }
    slices = {name: [] for name in drivers}
    for _ in range(asked.rounds):
        for name in order.sample(sorted(drivers), len(drivers)):
            slices[name].append(drivers[name]())
    own = {name: spread(values, order) for name, values in slices.items()}
    ratio = spread([loadgen / client for loadgen, client in zip(slices["loadgen"], slices["client"])], order)
    print(
        f"{case}: client {own['client']['median']:.0f} ns, loadgen {own['loadgen']['median']:.0f} ns per request, "
        f"loadgen ÷ client {ratio['median']:.3f} [{ratio['low95']:.3f} {ratio['high95']:.3f}]",
        flush=True,
    )
    return {"requests_per_slice": requests, "cpu_ns_per_request": own, "loadgen_over_client": ratio}


def run(command):
    """What the command tells as JSON. A wrong reply is a failure of either program."""
    command = [str(word) for word in command]
    ran = subprocess.run(command, capture_output=True, text=True)
    told = json.loads(ran.stdout) if ran.stdout else {}
    # Short of CPU loadgen is slower, but its CPU per request is right.
    is_starved = ran.returncode == 3 and told.get("limiter") == "generator's CPU"
    if ran.returncode != 0 and not is_starved:
        fail(f"{' '.join(command)} failed ({ran.returncode}): {ran.stderr.strip()} {ran.stdout.strip()}")
    return told


def spread(values, order):
    """Median, quartiles, and the 95 % interval of the median by bootstrap."""
    medians = sorted(statistics.median(order.choices(values, k=len(values))) for _ in range(RESAMPLES))
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    low, high = medians[round(RESAMPLES * 0.025)], medians[round(RESAMPLES * 0.975) - 1]
    return {"median": median, "q1": q1, "q3": q3, "low95": low, "high95": high, "values": values}


def cpu_model():
    with open("/proc/cpuinfo") as cpuinfo:
        return next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), "unknown")


def fail(words):
    sys.exit(f"load_cost.py: {words}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
