#!/usr/bin/env python3
"""Measures what a line in a chat costs for each who hears it, against the floor, Redis and NATS, side by side.

One member of a room talks and all others hear it. The server's CPU time is divided by the deliveries, of which loadgen
verifies every one: that it comes, once, in order, with the right bytes. Servers that are missing here are named.
"""

import os
import shlex
import shutil

import pairs
import server as peers
from server import Failure, Server

# name: (receivers, lines in flight)
CASES = {"100x64": (100, 64), "1000x64": (1000, 64), "100x1": (100, 1), "1000x1": (1000, 1)}
QUICK_CASES = ("100x64", "100x1")
QUICK_ROUNDS = 3
QUICK_SLICE_MS = 50

LINE_BYTES = 64


class Peer:
    """A server to start: how, and how loadgen has to speak to it."""

    def __init__(self, command, dialect, service=None, port=None):
        self.command = command
        self.dialect = dialect
        self.service = service
        self.port = port


def all_peers(arguments):
    """Those that are here, by name, the floor first."""
    served = "chat=127.0.0.1:0 --chat-rate 0"
    found = peers.with_others({"floor": f"{peers.build_floor('fanout')} 0"}, arguments, served)
    found = {
        name: Peer(command, "lines" if name == "floor" else "tidewheel", "lines tcp" if name == "floor" else "chat tcp")
        for name, command in found.items()
    }
    redis, nats = peers.free_port(), peers.free_port()
    others = {
        "redis": Peer(f"redis-server --bind 127.0.0.1 --port {redis} --save '' --appendonly no", "redis", port=redis),
        "nats": Peer(f"nats-server --addr 127.0.0.1 --port {nats} --log {os.devnull}", "nats", port=nats),
    }
    for name, peer in others.items():
        program = shlex.split(peer.command)[0]
        if not shutil.which(program):
            print(f"MISSING: {program} is not installed, so {name} is not measured")
        elif name in found:
            raise Failure(f"two servers are named {name}")
        else:
            found[name] = peer
    if not arguments.tidewheel:
        print("MISSING: tidewheel is not measured; --tidewheel PATH")
    return found


def main(arguments):
    if arguments.quick:
        arguments.rounds, arguments.slice_ms = QUICK_ROUNDS, QUICK_SLICE_MS
    pairs.check(arguments)
    order, conditions = pairs.begin(arguments)
    # For the servers that are started: Go's threads are as many as it has processors.
    os.environ["GOMAXPROCS"] = "1"
    found = all_peers(arguments)
    servers = []
    try:
        for name, peer in found.items():
            on_core = ["taskset", "-c", str(arguments.server_cpu)]
            servers.append(Server(name, peer.command, on_core, service=peer.service, port=peer.port))
        cases = {}
        for case in arguments.case or (QUICK_CASES if arguments.quick else CASES):
            cases[case] = measure_case(case, servers, found, arguments, order)
            print_case(case, cases[case])
    finally:
        for server in servers:
            server.stop()
    pairs.write(arguments, conditions, cases)


def measure_case(case, servers, found, arguments, order):
    receivers, in_flight = CASES[case]

    def drive(server, amount):
        load = ["--dialect", found[server.name].dialect, "-c", str(receivers + 1), "-d", str(in_flight)]
        load += ["-s", str(LINE_BYTES), *amount]
        result = pairs.drive(server, f"chat={server.host}:{server.port}", load, arguments)
        if result["lost"] or result["deliveries"] != result["requests"] * receivers:
            raise Failure(f"{server.name}: {result['requests']} lines, {result['deliveries']} deliveries")
        return result

    # Fixed work: the lines that the floor passes on in one slice.
    trial = drive(servers[0], ["-t", "300ms"])
    lines = max(10 * in_flight, round(trial["throughput_per_s"] * arguments.slice_ms / 1000))
    slices, steal = pairs.rounds(servers, lambda server: drive(server, ["-n", str(lines)]), arguments, order)
    result = {"receivers": receivers, "in_flight": in_flight, "lines_per_slice": lines, "steal_share": steal}
    result["servers"] = {name: summary(name, slices, order) for name in slices}
    return result


def cpu(slice):
    return slice["server_cpu_ns_per_delivery"]


def summary(name, slices, order):
    own = slices[name]
    result = {
        "cpu_ns_per_delivery": pairs.of_each(own, cpu, order),
        "loadgen_cpu_ns_per_delivery": pairs.of_each(own, lambda slice: slice["loadgen_cpu_ns_per_delivery"], order),
        "deliveries_per_s": pairs.of_each(own, lambda slice: slice["deliveries_per_s"], order),
        "p99_us": pairs.of_each(own, lambda slice: slice["service_time_us"]["p99"], order),
        "cpu_over_floor": pairs.ratio(own, slices["floor"], cpu, order),
        "starved_slices": pairs.starved(own),
    }
    if "tidewheel" in slices:
        result["cpu_over_tidewheel"] = pairs.ratio(own, slices["tidewheel"], cpu, order)
    return result


def print_case(case, result):
    print(
        f"\n{case}: {result['receivers']} receivers, {result['in_flight']} in flight, {LINE_BYTES} B, "
        f"{result['lines_per_slice']} lines a slice, steal {result['steal_share']:.1%}"
    )
    print(
        f"  {'server':<12}{'CPU ns/delivery':>16}{'(quartiles)':>16}{'deliveries/s':>14}{'p99 µs':>10}{'loadgen ns':>12}"
        f"{'÷ floor [95 %]':>24}{'÷ tidewheel [95 %]':>24}"
    )
    for name, row in result["servers"].items():
        own, p99 = row["cpu_ns_per_delivery"], row["p99_us"]["median"]
        quartiles = f"({own['q1']:.0f}..{own['q3']:.0f})"
        text = f"  {name:<12}{own['median']:>16.1f}{quartiles:>16}{row['deliveries_per_s']['median']:>14.0f}{p99:>10.0f}"
        text += f"{row['loadgen_cpu_ns_per_delivery']['median']:>12.0f}"
        for other in ("floor", "tidewheel"):
            ratio = row.get(f"cpu_over_{other}")
            text += f"{pairs.in_words(ratio) if ratio and name != other else '1' if ratio else '':>24}"
        if row["starved_slices"]:
            text += f"   {row['starved_slices']} slices with a generator short of CPU"
        print(text.rstrip(), flush=True)


if __name__ == "__main__":
    parser = peers.parser(__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable; all if none is given")
    parser.add_argument("--quick", action="store_true", help="whether it works, in seconds: the figures mean nothing")
    pairs.add_arguments(parser, rounds=15, slice_ms=300)
    peers.main(main, parser)
