"""Starting servers, for the measuring programs beside this file.

A server says where it listens on standard output, `listening SERVICE TRANSPORT://HOST:PORT`, and then `ready`. One that
says nothing is told its port, and is ready once it accepts a connection.
"""

import argparse
import os
import resource
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
START_TIMEOUT_S = 60  # valgrind takes seconds


class Failure(Exception):
    """What went wrong, in words for the person who started the measurement."""


class Server:
    """A running server. `prefix` runs it under a tool, which either becomes the server by exec (taskset, valgrind) or,
    with `tool_is_parent`, has it as its only child (strace); `setup` runs in the process before the program does.
    `service` is what of it is measured, as it announces it; with a `port` it announces nothing."""

    def __init__(
        self, name, command, prefix=(), setup=None, tool_is_parent=False, service="echo tcp", port=None
    ):
        self.name = name
        self.service = service
        try:
            self.process = subprocess.Popen(
                [*prefix, *shlex.split(command)],
                stdout=subprocess.DEVNULL if port else subprocess.PIPE,
                preexec_fn=setup,
            )
        except OSError as error:
            raise Failure(f"{name}: cannot start {command!r}: {error}") from error
        self.pid = self.process.pid
        try:
            self.host, self.port = self._accepting(port) if port else self._announced()
        except Failure:
            self.stop()
            raise
        if tool_is_parent:
            self.pid = _only_child(self.process.pid)

    def _announced(self):
        """Waits for `ready` and returns the address of the service."""
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
            if line.startswith(f"listening {self.service}://"):
                host, port = line.removeprefix(f"listening {self.service}://").rsplit(":", 1)
                return host, int(port)
        raise Failure(f"{self.name}: announced no {self.service}: {text!r}")

    def _accepting(self, port):
        """Waits until a connection is accepted, which nothing tells of."""
        give_up = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < give_up:
            self.check_alive()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return "127.0.0.1", port
            except OSError:
                time.sleep(0.02)
        raise Failure(f"{self.name}: accepts no connection at port {port} after {START_TIMEOUT_S} s")

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
        if self.process.stdout:
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


def build_floor(name):
    """Builds a floor, and returns it as a word of a command."""
    if not shutil.which("make"):
        raise Failure("make and a C compiler are needed to build the floors")
    if subprocess.run(["make", "--silent", "-C", HERE, name]).returncode != 0:
        raise Failure("the floors could not be built")
    return shlex.quote(os.path.join(HERE, name))


def free_port():
    """A port of 127.0.0.1 on which nobody listens, for a server that cannot choose one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def commands(arguments):
    """The servers of echo to compare, by name, the floors first."""
    floor = build_floor("floor")
    return with_others({"floor": f"{floor} 0", "phased": f"{floor} --phased 0"}, arguments, "echo=127.0.0.1:0")


def with_others(found, arguments, served):
    """These servers and those of the command line; `served` is what tidewheel is asked to serve."""
    others = [entry.partition("=") for entry in arguments.server]
    if arguments.tidewheel:
        others.insert(0, ("tidewheel", "=", f"{shlex.quote(arguments.tidewheel)} serve {served}"))
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
