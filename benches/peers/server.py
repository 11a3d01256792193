"""Starting servers that announce themselves, for the two measuring programs beside this file.

A server says where it listens on standard output, `listening echo tcp://HOST:PORT`, and then `ready`.
"""

import argparse
import os
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
START_TIMEOUT_S = 60  # valgrind takes seconds


class Failure(Exception):
    """What went wrong, in words for the person who started the measurement."""


class Server:
    """A running server. `prefix` runs it under a tool, which either becomes the server by exec (taskset, valgrind) or,
    with `tool_is_parent`, has it as its only child (strace); `setup` runs in the process before the program does."""

    def __init__(self, name, command, prefix=(), setup=None, tool_is_parent=False):
        self.name = name
        try:
            self.process = subprocess.Popen(
                [*prefix, *shlex.split(command)], stdout=subprocess.PIPE, preexec_fn=setup
            )
        except OSError as error:
            raise Failure(f"{name}: cannot start {command!r}: {error}") from error
        self.pid = self.process.pid
        try:
            self.host, self.port = self._announced()
        except Failure:
            self.stop()
            raise
        if tool_is_parent:
            self.pid = _only_child(self.process.pid)

    def _announced(self):
        """Waits for `ready` and returns the address of the echo service."""
        pipe = self.process.stdout.fileno()
        text = b""
        give_up = time.monotonic() + START_TIMEOUT_S
        while b"ready\n" not in text:
            if not select.select([pipe], [], [], max(0, give_up - time.monotonic()))[0]:
                raise Failure(f"{self.name}: not ready after {START_TIMEOUT_S} s; it said {text!r}")
            piece = os.read(pipe, 4096)
            if not piece:
                raise Failure(f"{self.name}: ended before it was ready; it said {text!r}")
            text += piece
        for line in text.decode().splitlines():
            if line.startswith("listening echo tcp://"):
                host, port = line.removeprefix("listening echo tcp://").rsplit(":", 1)
                return host, int(port)
        raise Failure(f"{self.name}: announced no echo on tcp: {text!r}")

    def check_alive(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name}: ended by itself ({self.process.returncode})")

    def stop(self):
        """Ends the server and waits for it, and so for what its tool writes at the end."""
        if self.process.poll() is None:
            try:
                os.kill(self.pid, signal.SIGTERM)
                self.process.wait(timeout=20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()


def _only_child(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        (child,) = children.read().split()
    return int(child)


def add_server_arguments(parser):
    parser.add_argument("--tidewheel", metavar="PATH", help="a release binary of tidewheel")
    parser.add_argument(
        "--server",
        metavar="NAME=COMMAND",
        action="append",
        default=[],
        help="another server; COMMAND must announce itself as tidewheel does, and be or exec the server",
    )


def commands(arguments):
    """The servers to compare, by name, the floors first. Builds the floors."""
    if not shutil.which("make"):
        raise Failure("make and a C compiler are needed to build the floors")
    if subprocess.run(["make", "--silent", "-C", HERE]).returncode != 0:
        raise Failure("the floors could not be built")
    floor = shlex.quote(os.path.join(HERE, "floor"))
    found = {"floor": f"{floor} 0", "phased": f"{floor} --phased 0"}
    others = [entry.partition("=") for entry in arguments.server]
    if arguments.tidewheel:
        others.insert(0, ("tidewheel", "=", f"{shlex.quote(arguments.tidewheel)} serve echo=127.0.0.1:0"))
    for name, equals, command in others:
        if not name or not equals or not command.strip():
            raise Failure("--server needs NAME=COMMAND")
        if name in found:
            raise Failure(f"two servers are named {name}")
        found[name] = command
    return found


def raise_descriptor_limit():
    """Raises the soft limit to the hard one, for this process and the servers it starts; returns it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def need_cpu(cpu):
    if cpu not in os.sched_getaffinity(0):
        raise Failure(f"CPU {cpu} is not available here; there are {sorted(os.sched_getaffinity(0))}")


def main(measure, parser):
    """Runs a measuring program. What went wrong is one clear line, and the exit code says so."""
    add_server_arguments(parser)
    try:
        measure(parser.parse_args())
    except Failure as failure:
        sys.exit(f"{os.path.basename(sys.argv[0])}: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)


def parser(description):
    return argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
