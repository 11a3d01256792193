#!/usr/bin/env python3
"""Measures what driving load costs: CPU per request of loadgen and of the plain C client, in a closed loop at one server.

Both do the same: 50 connections, requests of 64 bytes, every byte of every reply compared, every service time recorded.
A round is one slice of each, in shuffled order; ratios are taken within a round.
"""

import json
import os
import subprocess

import pairs
import server as peers
from server import Failure, Server

# name: depth
CASES = {"depth1": 1, "depth16": 16}
CONNECTIONS, BYTES = 50, 64


def main(arguments):
    pairs.check(arguments)
    client = os.path.join(peers.HERE, "client")
    if not os.access(client, os.X_OK):
        raise Failure(f"no client at {client}: make -C {peers.HERE}")
    order, conditions = pairs.begin(arguments)
    command = f"{arguments.tidewheel} serve echo=127.0.0.1:0"
    server = Server("tidewheel", command, ["taskset", "-c", str(arguments.server_cpu)])
    cases = {}
    try:
        for case, depth in CASES.items():
            cases[case] = measure_case(case, depth, server, client, arguments, order)
    finally:
        server.stop()
    pairs.write(arguments, conditions, cases)


def measure_case(case, depth, server, client, arguments, order):
    load = ["-c", str(CONNECTIONS), "-d", str(depth), "-s", str(BYTES)]
    trial = pairs.drive(server, f"echo={server.host}:{server.port}", [*load, "-t", "500ms"], arguments)
    requests = max(CONNECTIONS * depth * 10, round(trial["throughput_per_s"] * arguments.slice_ms / 1000))

    def with_loadgen():
        target = f"echo={server.host}:{server.port}"
        return pairs.drive(server, target, [*load, "-n", str(requests)], arguments)["loadgen_cpu_ns_per_request"]

    def with_client():
        numbers = [server.port, CONNECTIONS, depth, BYTES, requests, requests // 10]
        command = ["taskset", "-c", str(arguments.load_cpu), client, *map(str, numbers)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode != 0:
            raise Failure(f"{' '.join(command)} failed ({run.returncode}): {run.stderr.strip()} {run.stdout.strip()}")
        return json.loads(run.stdout)["cpu_ns_per_request"]

    slices = {"client": [], "loadgen": []}
    drivers = {"client": with_client, "loadgen": with_loadgen}
    for _ in range(arguments.rounds):
        for name in order.sample(sorted(drivers), len(drivers)):
            slices[name].append(drivers[name]())
    own = {name: pairs.of_each(values, float, order) for name, values in slices.items()}
    ratio = pairs.ratio(slices["loadgen"], slices["client"], float, order)
    print(
        f"{case}: client {own['client']['median']:.0f} ns, loadgen {own['loadgen']['median']:.0f} ns per request, "
        f"loadgen ÷ client {pairs.in_words(ratio)}",
        flush=True,
    )
    return {"requests_per_slice": requests, "cpu_ns_per_request": own, "loadgen_over_client": ratio}


if __name__ == "__main__":
    parser = peers.parser(__doc__.splitlines()[0])
    pairs.add_arguments(parser, rounds=21, slice_ms=300)
    peers.main(main, parser)
