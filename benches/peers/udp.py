#!/usr/bin/env python3
"""Measures what an answer to a datagram costs, against loops in C that take and send so many at once, side by side.

The loops have batches of 1 (recvfrom and sendto), 8, 64 and 256 (recvmmsg and sendmmsg), and of 64 after a wait in epoll, as
any server makes that has more than one socket. Every reply is verified.
"""

import pairs
import server as peers
from server import Server

# name: (service, sources)
CASES = {"echo": ("echo", 256), "time": ("time", 256)}
LOOPS = {
    "one by one": "--batch 0",
    "batch 8": "--batch 8",
    "batch 64": "--batch 64",
    "batch 256": "--batch 256",
    "64, epoll": "--batch 64 --epoll",
}
DATAGRAM_BYTES = 64
QUICK_ROUNDS = 3
QUICK_SLICE_MS = 50


def main(arguments):
    if arguments.quick:
        arguments.rounds, arguments.slice_ms = QUICK_ROUNDS, QUICK_SLICE_MS
    pairs.check(arguments)
    order, conditions = pairs.begin(arguments)
    cases = {}
    for case in arguments.case or CASES:
        service, sources = CASES[case]
        servers = []
        try:
            for name, command in commands(service, arguments).items():
                on_core = ["taskset", "-c", str(arguments.server_cpu)]
                servers.append(Server(name, command, on_core, service=f"{service} udp"))
            cases[case] = measure_case(service, sources, servers, arguments, order)
        finally:
            for server in servers:
                server.stop()
        print_case(case, cases[case])
    pairs.write(arguments, conditions, cases)


def commands(service, arguments):
    floor = peers.build_floor("udp_floor") + (" --time" if service == "time" else "")
    floors = {name: f"{floor} {options} 0" for name, options in LOOPS.items()}
    return peers.with_others(floors, arguments, f"{service}=udp://127.0.0.1:0")


def measure_case(service, sources, servers, arguments, order):
    load = ["-c", str(sources), "-s", str(DATAGRAM_BYTES)]

    def drive(server, amount):
        return pairs.drive(server, f"{service}=udp://{server.host}:{server.port}", [*load, *amount], arguments)

    # Fixed work: what the first loop answers in one slice.
    trial = drive(servers[0], ["-t", "300ms"])
    requests = max(10 * sources, round(trial["throughput_per_s"] * arguments.slice_ms / 1000))
    slices, steal = pairs.rounds(servers, lambda server: drive(server, ["-n", str(requests)]), arguments, order)
    result = {"sources": sources, "requests_per_slice": requests, "steal_share": steal}
    result["servers"] = {name: summary(name, slices, order) for name in slices}
    return result


def cpu(slice):
    return slice["server_cpu_ns_per_request"]


def summary(name, slices, order):
    own = slices[name]
    return {
        "cpu_ns_per_reply": pairs.of_each(own, cpu, order),
        "throughput_per_s": pairs.of_each(own, lambda slice: slice["throughput_per_s"], order),
        "p99_us": pairs.of_each(own, lambda slice: slice["service_time_us"]["p99"], order),
        "lost": sum(slice["lost"] for slice in own),
        "cpu_over": {floor: pairs.ratio(own, slices[floor], cpu, order) for floor in LOOPS},
        "starved_slices": pairs.starved(own),
    }


def print_case(case, result):
    print(
        f"\n{case}: {result['sources']} sources, {DATAGRAM_BYTES} B, {result['requests_per_slice']} datagrams a slice, "
        f"steal {result['steal_share']:.1%}"
    )
    floors = "".join(f"{'÷ ' + floor + ' [95 %]':>24}" for floor in LOOPS)
    print(f"  {'server':<12}{'CPU ns/reply':>14}{'(quartiles)':>16}{'replies/s':>12}{'p99 µs':>10}{'lost':>6}{floors}")
    for name, row in result["servers"].items():
        own, throughput, p99 = row["cpu_ns_per_reply"], row["throughput_per_s"], row["p99_us"]
        quartiles = f"({own['q1']:.0f}..{own['q3']:.0f})"
        text = f"  {name:<12}{own['median']:>14.0f}{quartiles:>16}{throughput['median']:>12.0f}{p99['median']:>10.0f}"
        text += f"{row['lost']:>6}"
        for floor, ratio in row["cpu_over"].items():
            text += f"{pairs.in_words(ratio) if name != floor else '1':>24}"
        if row["starved_slices"]:
            text += f"   {row['starved_slices']} slices with a generator short of CPU"
        print(text.rstrip(), flush=True)


if __name__ == "__main__":
    parser = peers.parser(__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable; all if none is given")
    parser.add_argument("--quick", action="store_true", help="whether it works, in seconds: the figures mean nothing")
    pairs.add_arguments(parser, rounds=15, slice_ms=300)
    peers.main(main, parser)
