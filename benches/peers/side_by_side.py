#!/usr/bin/env python3
"""Measures servers against the floors: CPU per echo, throughput and p99, side by side.

All servers are alive at once, pinned to one core; loadgen, on another, drives them in many short slices of the same
fixed work. A round is one slice of each, in shuffled order. A ratio is taken within a round, between slices that are
a second apart and met the same weather, and the median over the rounds is told with the 95 % interval of a bootstrap:
absolute figures drift on a shared machine, ratios much less.

Replies are verified by loadgen; one wrong byte ends everything.
"""

import pairs
import server as peers
from server import Server

# name: (connections, depth, bytes)
CASES = {
    "1": (1, 1, 64),
    "50": (50, 1, 64),
    "1000": (1000, 1, 64),
    "depth16": (50, 16, 64),
    "16KiB": (50, 1, 16384),
}

FLOORS = ("floor", "phased")


def main(arguments):
    pairs.check(arguments)
    order, conditions = pairs.begin(arguments)
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
    pairs.write(arguments, conditions, cases)


def measure_case(case, servers, arguments, order):
    connections, depth, size = CASES[case]
    load = ["-c", str(connections), "-d", str(depth), "-s", str(size)]

    def drive(server, amount):
        return pairs.drive(server, f"echo={server.host}:{server.port}", [*load, *amount], arguments)

    # Fixed work: the requests that the floor answers in one slice. The same number for all, so that no server has
    # more warm caches or fewer edges than another.
    trial = drive(servers[0], ["-t", "500ms"])
    requests = max(connections * depth * 10, round(trial["throughput_per_s"] * arguments.slice_ms / 1000))
    slices, steal = pairs.rounds(servers, lambda server: drive(server, ["-n", str(requests)]), arguments, order)
    result = {"connections": connections, "depth": depth, "size": size, "requests_per_slice": requests}
    result["steal_share"] = steal
    result["servers"] = {name: summary(name, slices, order) for name in slices}
    return result


def cpu(slice):
    return slice["server_cpu_ns_per_request"]


def summary(name, slices, order):
    own = slices[name]
    result = {
        "cpu_ns_per_echo": pairs.of_each(own, cpu, order),
        "throughput_per_s": pairs.of_each(own, lambda slice: slice["throughput_per_s"], order),
        "p99_us": pairs.of_each(own, lambda slice: slice["service_time_us"]["p99"], order),
        "starved_slices": pairs.starved(own),
    }
    for floor in FLOORS:
        result[f"cpu_over_{floor}"] = pairs.ratio(own, slices[floor], cpu, order)
    return result


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


if __name__ == "__main__":
    parser = peers.parser(__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable; all if none is given")
    pairs.add_arguments(parser, rounds=30, slice_ms=300)
    peers.main(main, parser)
