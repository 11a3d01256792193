#!/usr/bin/env python3
"""Counts what an echo costs, exactly: instructions, system calls, memory per idle connection.

Nothing here is timed, so a busy machine changes nothing. Each figure is a slope, the difference between two amounts
of the same work, which leaves out what a server does once (starting, accepting, growing a table, ending).

    instructions   user space, under callgrind: between two numbers of echoes
    system calls   by name, from strace's log: between two numbers of echoes; reads that only return EAGAIN apart
    memory         the process's own dirty pages: between two numbers of idle connections, each of which sent a line

The load is a lock-step one: a turn waits until the server sleeps, sends on each of k connections, and reads every
reply. Without the wait the next request could meet the server before it has asked for more, and a read that would
have returned EAGAIN finds bytes. And the server has to find all k at once. Stopping the server meanwhile would not do: Linux ends epoll_wait with EINTR when a
stopped process continues, a system call per turn that the server does not make otherwise. Instead the load runs on
the server's own core with a real-time priority, so that the server, woken by the first request, does not run before
the last is sent. Where that is not permitted the server is given the idle priority instead, which does the same
unless the load's time slice ends in the middle of a turn. The system calls show that it worked: one wait per turn.
"""

import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections import Counter

import server as peers
from server import Failure, Server

MANY = 50
REPLY_TIMEOUT_S = 60
SLEEP_TIMEOUT_S = 10

# Turns at which the slope is taken, by connections. The first is past every server's warm-up; the middle one shows
# whether the figure is a slope at all. Enough turns that a stray thousand instructions is less than one per echo.
INSTRUCTION_TURNS = {1: (500, 2500, 4500), MANY: (50, 150, 250)}
SYSTEM_CALL_TURNS = {1: (200, 1200), MANY: (20, 120)}

IDLE_LINE = b"hello\n"
IDLE_FEW, IDLE_MIDDLE, IDLE_MANY = 1000, 8000, 15000
DESCRIPTORS_RESERVED = 100  # the server's own and its safety margin, and this program's

GOALS = {
    "instructions per echo, 1 connection": 300,
    f"instructions per echo, {MANY} ready": 150,
    "system calls per echo, 1 connection": 3,
    f"system calls per echo, {MANY} ready": 2 + 1 / MANY,
    "reads that return EAGAIN per echo": 0,
    "bytes per idle connection": 128,
}


class LockStep:
    """k connections to an echo server, each with a request of 64 bytes a turn, every reply verified."""

    def __init__(self, server, connections):
        self.server = server
        self.sockets = [connect(server) for _ in range(connections)]

    def turns(self, turns):
        for turn in range(turns):
            requests = [f"{turn:>32}{index:>32}".encode() for index in range(len(self.sockets))]
            wait_until_it_sleeps(self.server)
            for connection, request in zip(self.sockets, requests):
                connection.sendall(request)
            for connection, request in zip(self.sockets, requests):
                expect(self.server, connection, request)

    def close(self):
        for connection in self.sockets:
            connection.close()


def wait_until_it_sleeps(server):
    """A single-threaded server sleeps nowhere but in its wait for readiness; of others every thread has to sleep."""
    give_up = time.monotonic() + SLEEP_TIMEOUT_S
    threads = f"/proc/{server.pid}/task"
    while True:
        # The server runs while this program sleeps, and only then.
        time.sleep(50e-6)
        try:
            if all(thread_state(f"{threads}/{thread}/stat") == "S" for thread in os.listdir(threads)):
                return
        except (FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile, or the whole server
            server.check_alive()
        if time.monotonic() > give_up:
            raise Failure(f"{server.name}: has nothing to do and does not sleep")


def thread_state(path):
    with open(path) as stat:
        return stat.read().rpartition(") ")[2][0]


def connect(server):
    connection = socket.create_connection((server.host, server.port), timeout=REPLY_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def expect(server, connection, request):
    reply = b""
    while len(reply) < len(request):
        try:
            piece = connection.recv(len(request) - len(reply))
        except OSError as error:
            raise Failure(f"{server.name}: no reply: {error}") from error
        if not piece:
            raise Failure(f"{server.name}: closed a connection")
        reply += piece
    if reply != request:
        raise Failure(f"{server.name}: answered {reply!r} to {request!r}")


class SameCore:
    """Puts the load and the servers it starts on one core and the load before the server (see the top)."""

    def __init__(self, cpu):
        self.cpu = cpu

    def __enter__(self):
        self.affinity = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self.cpu})
        try:
            # Children begin with the ordinary priority: only this program is ahead of them.
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
            self.setup = None
        except PermissionError:
            self.setup = lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return self

    def __exit__(self, *_):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, self.affinity)


def run_turns(name, command, tool, core, connections, turns):
    """One whole life of a server under a tool: start, the turns, end."""
    server = Server(name, command, tool, core.setup, tool_is_parent=tool[0] == "strace")
    try:
        load = LockStep(server, connections)
        load.turns(turns)
        load.close()
        server.check_alive()
    finally:
        server.stop()


def instructions_per_echo(name, command, core, connections, folder):
    """The slope over the whole range, and over its two halves."""
    totals = []
    for turns in INSTRUCTION_TURNS[connections]:
        profile = os.path.join(folder, "callgrind.out")
        log = os.path.join(folder, "valgrind.log")
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", f"--log-file={log}"]
        run_turns(name, command, tool, core, connections, turns)
        with open(profile) as text:
            found = re.search(r"^(?:summary|totals): (\d+)", text.read(), re.MULTILINE)
        if not found:
            raise Failure(f"{name}: callgrind wrote no total")
        totals.append(int(found[1]))
        os.remove(profile)
    echoes = [turns * connections for turns in INSTRUCTION_TURNS[connections]]

    def slope(low, high):
        return (totals[high] - totals[low]) / (echoes[high] - echoes[low])

    return {"slope": slope(0, 2), "first_half": slope(0, 1), "second_half": slope(1, 2)}


def system_calls_per_echo(name, command, core, connections, folder):
    """Slopes by name. The log, not strace's own summary (-c): the summary does not tell one error from another."""
    counts = []
    for turns in SYSTEM_CALL_TURNS[connections]:
        log = os.path.join(folder, "strace.log")
        run_turns(name, command, ["strace", "-f", "-s", "0", "-o", log], core, connections, turns)
        counts.append(count_calls(log))
        os.remove(log)
    low, high = SYSTEM_CALL_TURNS[connections]
    echoes = (high - low) * connections
    slopes = {call: (counts[1][call] - counts[0][call]) / echoes for call in counts[1] | counts[0]}
    return {call: slope for call, slope in sorted(slopes.items()) if slope}


EAGAIN_READS = "EAGAIN reads"
READS = {"read", "readv", "recvfrom", "recvmsg", "recvmmsg"}


def count_calls(log):
    """Calls by name, and beside them the reads that returned EAGAIN."""
    counts = Counter()
    with open(log, errors="replace") as lines:
        for line in lines:
            # `PID name(arguments) = result`. A call that another thread's interrupts in the log is two lines,
            # `PID name(arguments <unfinished ...>` and `PID <... name resumed> ) = result`.
            began = re.match(r"\d+ +(\w+)\(", line)
            resumed = re.match(r"\d+ +<\.\.\. (\w+) resumed>", line)
            if began:
                counts[began[1]] += 1
            call = (began or resumed or [None, None])[1]
            if call in READS and " = -1 EAGAIN" in line:
                counts[EAGAIN_READS] += 1
    return counts


def bytes_per_idle_connection(name, command, most):
    """Slopes of the private dirty memory: what the server has written to, counted page by page."""
    server = Server(name, command)
    connections = []
    used = []
    points = (IDLE_FEW, min(IDLE_MIDDLE, (IDLE_FEW + most) // 2), most)
    try:
        for point in points:
            while len(connections) < point:
                connection = connect(server)
                connection.sendall(IDLE_LINE)
                expect(server, connection, IDLE_LINE)
                connections.append(connection)
            # The reply to one more line: whatever the server did after its last reply before is done.
            connections[0].sendall(IDLE_LINE)
            expect(server, connections[0], IDLE_LINE)
            used.append(private_dirty_bytes(server.pid))
        server.check_alive()
    finally:
        server.stop()
        for connection in connections:
            connection.close()

    def slope(low, high):
        return (used[high] - used[low]) / (points[high] - points[low])

    return {
        "slope": slope(0, 2),
        "first_half": slope(0, 1),
        "second_half": slope(1, 2),
        "connections": points,
        "private_dirty_bytes": used,
    }


def private_dirty_bytes(pid):
    """Exact: the kernel walks the pages for it, where /proc/PID/status adds up counters that lag behind."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return 1024 * int(re.search(r"^Private_Dirty: +(\d+) kB", rollup.read(), re.MULTILINE)[1])


def count(name, command, what, core, idle_most):
    result = {}
    with core, tempfile.TemporaryDirectory() as folder:
        for connections in (1, MANY):
            if "instructions" in what:
                result[f"instructions_{connections}"] = instructions_per_echo(
                    name, command, core, connections, folder
                )
            if "syscalls" in what:
                result[f"system_calls_{connections}"] = system_calls_per_echo(
                    name, command, core, connections, folder
                )
    if "memory" in what:
        result["idle_memory"] = bytes_per_idle_connection(name, command, idle_most)
    return result


def print_server(name, result):
    print(f"\n{name}")
    for connections, label in ((1, "1 connection"), (MANY, f"{MANY} ready")):
        if found := result.get(f"instructions_{connections}"):
            print_figure(
                f"instructions per echo, {label}",
                found["slope"],
                f"halves {found['first_half']:.1f} and {found['second_half']:.1f}",
            )
        if found := result.get(f"system_calls_{connections}"):
            calls = {call: slope for call, slope in found.items() if call != EAGAIN_READS}
            by_name = ", ".join(f"{call} {slope:.3f}" for call, slope in calls.items())
            print_figure(f"system calls per echo, {label}", sum(calls.values()), by_name)
            print_figure("reads that return EAGAIN per echo", found.get(EAGAIN_READS, 0))
    if found := result.get("idle_memory"):
        few, _, most = found["connections"]
        print_figure(
            "bytes per idle connection",
            found["slope"],
            f"from {few} to {most}; halves {found['first_half']:.0f} and {found['second_half']:.0f}",
        )


def print_figure(label, figure, remark=""):
    print(f"  {label:<38}{figure:>10.3f}   goal {GOALS[label]:<6g}{remark}".rstrip(), flush=True)


def main(arguments):
    what = set(arguments.only or ("instructions", "syscalls", "memory"))
    for subject, tool in (("instructions", "valgrind"), ("syscalls", "strace")):
        if subject in what and not shutil.which(tool):
            what.remove(subject)
            print(f"MISSING: {tool} is not installed, so {subject} are not counted")
    if not what:
        raise Failure("nothing is left to count")
    peers.need_cpu(arguments.cpu)
    idle_most = min(IDLE_MANY, peers.raise_descriptor_limit() - DESCRIPTORS_RESERVED)
    if "memory" in what:
        if idle_most < 2 * IDLE_FEW:
            raise Failure(f"the descriptor limit leaves {idle_most} connections; idle memory needs {2 * IDLE_FEW}")
        if idle_most < IDLE_MANY:
            print(f"the descriptor limit leaves {idle_most} idle connections instead of {IDLE_MANY}")

    results = {}
    for name, command in peers.commands(arguments).items():
        results[name] = count(name, command, what, SameCore(arguments.cpu), idle_most)
        print_server(name, results[name])
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    parser = peers.parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", choices=("instructions", "syscalls", "memory"), help="repeatable; all if not given"
    )
    parser.add_argument("--cpu", type=int, default=0, help="the core that load and server share while counting")
    parser.add_argument("--json", metavar="FILE")
    peers.main(main, parser)
