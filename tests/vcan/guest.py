"""Run a command where vcan0..vcan5 exist, whatever the machine's kernel.

    tests/vcan/run [--netns | --host | --uml | --qemu] [--timeout S] [--memory M] [--env NAME[=VALUE]] [-- COMMAND …]

Three places offer the interfaces, and ``--auto`` (the default) takes the first that works:

* ``netns``: a network namespace of this kernel, where it has the vcan module; nothing outside it changes.
* ``host``: vcan0 … vcan5 are there already.
* ``uml``: a throw-away User-Mode Linux guest over this file system. No root rights, no image.

Two more are taken only when asked for: ``qemu``, Debian's kernel emulated, several times slower but with kernel ISO-TP;
and ``lo``, a network namespace with nothing but loopback, for buses that are multicast between processes.

Standard library only and no import of ours, because it runs before any environment exists.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
if str(ROOT) not in sys.path:  # started as a script
    sys.path.insert(0, str(ROOT))

from tests.vcan import qemu  # noqa: E402  # needs the line above

INTERFACES = tuple(f"vcan{n}" for n in range(6))

#: Statuses of our own, after sysexits.h and timeout(1).
EX_USAGE, EX_UNAVAILABLE, EX_SOFTWARE, EX_TIMEOUT = 64, 69, 70, 124

#: Variables a command sees inside as outside; names ending in ``*`` are prefixes.
PASSED = ("PATH", "HOME", "USER", "TERM", "TZ", "LANG", "LC_*", "CI", "COLUMNS", "VIRTUAL_ENV", "PY*", "HYPOTHESIS*")
PASSED_OURS = ("OUTRIDER_*",)
BOOT_TIMEOUT_S = 120.0


class GuestError(Exception):
    """The place could not be made or ended without an exit status; ``status`` is what the runner exits with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Job:
    """What to run: ``command`` empty means an interactive shell. ``directory`` exchanges files with the guest."""

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    working_directory: Path
    timeout_s: float
    memory_mib: int

    def write(self) -> None:
        """Lay out the files the guest's process 1 reads."""
        (self.directory / "tmp").mkdir()
        self.directory.chmod(0o755)
        lines = ["#!/bin/bash"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(self.environment.items())]
        lines.append(f"cd {shlex.quote(str(self.working_directory))} || exit {EX_UNAVAILABLE}")
        if self.command:
            lines.append("exec " + shlex.join(self.command))
            (self.directory / "command").write_text("\n".join(lines) + "\n")
            return
        with contextlib.suppress(OSError):
            rows, columns = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))[:2]
            lines.append(f"stty rows {rows} columns {columns}")
        lines.append("exec ${SHELL:-bash} -i")
        (self.directory / "shell").write_text("\n".join(lines) + "\n")


def passed_environment(extra: Sequence[str], place: str, temporary: str, *, coloured: bool) -> dict[str, str]:
    """The variables a command gets: the listed ones of ours, ``extra`` (NAME or NAME=VALUE), and where it runs."""
    chosen = {}
    for name, value in os.environ.items():
        if any(name == p or (p.endswith("*") and name.startswith(p[:-1])) for p in PASSED + PASSED_OURS):
            chosen[name] = value
    for item in extra:
        name, given, value = item.partition("=")
        if given:
            chosen[name] = value
        elif name in os.environ:
            chosen[name] = os.environ[name]
    chosen["OUTRIDER_GUEST_PLACE"] = place
    if not coloured:
        chosen["TERM"] = "dumb"  # inside, output always goes to a terminal line
    chosen["TMPDIR"] = temporary
    return chosen


# --- the places -------------------------------------------------------------------------------------------------------


def namespace_command() -> list[str] | None:
    """The start of a command line that makes a network namespace, or None where vcan cannot be had in one."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    attempts = [[unshare, "--net", "--mount"], [unshare, "--user", "--map-root-user", "--net", "--mount"]]
    for start in attempts if os.geteuid() == 0 else attempts[1:]:
        probe = [*start, "ip", "link", "add", "vcan0", "type", "vcan"]
        if subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0:
            return start
    return None


def loopback_command() -> list[str] | None:
    """The start of a command line that makes a network namespace without any CAN, or None where that is not allowed."""
    unshare = shutil.which("unshare")
    starts = [["--net"], ["--user", "--map-root-user", "--net"]]
    for start in starts if os.geteuid() == 0 else starts[1:]:
        line = [unshare or "unshare", *start]
        if (
            unshare
            and subprocess.run([*line, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode
            == 0
        ):
            return line
    return None


def have_interfaces() -> bool:
    """vcan0 … vcan5 exist in this network namespace and are up for CAN FD."""
    for name in INTERFACES:
        folder = Path("/sys/class/net") / name
        try:
            if int((folder / "flags").read_text(), 16) & 1 == 0 or int((folder / "mtu").read_text()) < 72:
                return False
        except (OSError, ValueError):
            return False
    return True


def uml_kernel() -> str | None:
    """The User-Mode Linux binary, or None."""
    return shutil.which("linux.uml", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")


def choose_place() -> str:
    """The first place that works here.

    Raises:
        GuestError: none does; the message says what to install.
    """
    if namespace_command() is not None:
        return "netns"
    if have_interfaces():
        return "host"
    if uml_kernel() is not None:
        return "uml"
    raise GuestError(
        "no vcan here: this kernel has no vcan module and there is no User-Mode Linux "
        "(Debian: apt-get install user-mode-linux iproute2 kmod)",
        EX_UNAVAILABLE,
    )


def uml_command_line(job: Job) -> list[str]:
    """The kernel's command line, but for where its console and serial lines go."""
    kernel = uml_kernel()
    if kernel is None:
        raise GuestError("no linux.uml found (Debian: apt-get install user-mode-linux)", EX_UNAVAILABLE)
    return [
        kernel,
        f"mem={job.memory_mib}M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "rw",
        f"init={HERE / 'init-uml.sh'}",
        f"OUTRIDER_JOB={job.directory}",
        f"uml_dir={job.directory}",
        "con=null",
        "ssl=null",
        "quiet",
        "panic=-1",
    ]


class Pump(threading.Thread):
    """Copies one stream of the guest to one of ours as it comes; keeps the last bytes for a failure's message."""

    def __init__(self, source: int, target: BinaryIO | None, *, keep_bytes: int = 0) -> None:
        super().__init__(daemon=True)
        self._source, self._target, self._keep_bytes = source, target, keep_bytes
        self.tail = b""
        self.start()

    def run(self) -> None:
        """Until the guest's end closes."""
        while True:
            try:
                chunk = os.read(self._source, 65536)
            except OSError:
                break
            if not chunk:
                break
            if self._keep_bytes:
                self.tail = (self.tail + chunk)[-self._keep_bytes :]
            if self._target is not None:
                try:
                    self._target.write(chunk)
                    self._target.flush()
                except (OSError, ValueError):
                    self._target = None  # our reader left; the guest must not block on it
        os.close(self._source)


@contextlib.contextmanager
def _guard(group: int, directory: Path) -> Iterator[None]:
    """Ends the process group and removes the job's folder if the runner dies by kill -9.

    A shell waits for the end of a pipe that only the runner holds. Parent-death signals would not do: User-Mode Linux
    has helper processes that outlive its main one.
    """
    script = 'read _; kill -s KILL -- "-$0" && rm -rf -- "$1"'
    line = ["sh", "-c", script, str(group), str(directory)]
    shell = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        shell.kill()
        shell.communicate()


def run_uml(job: Job, stdout: BinaryIO, stderr: BinaryIO) -> int:
    """Boot the guest, run the job in it, and return the job's exit status.

    Raises:
        GuestError: it did not boot, hung past the timeout, or died without leaving a status.
    """
    line = uml_command_line(job)
    if not job.command:
        with _spawn([*line, "con0=fd:0,fd:1"], job) as process:
            return _wait(process, job, Pump(os.open(os.devnull, os.O_RDONLY), None))
    pipes = [os.pipe() for _ in range(3)]
    ends = [write for _, write in pipes]
    line += [f"con0=null,fd:{ends[0]}", f"ssl0=null,fd:{ends[1]}", f"ssl1=null,fd:{ends[2]}"]
    return _run_guest(line, job, pipes, stdout, stderr)


def run_qemu(job: Job, stdout: BinaryIO, stderr: BinaryIO) -> int:
    """The same in the emulated machine.

    Raises:
        GuestError: as ``run_uml``, or the emulator or its kernel cannot be had.
    """
    try:
        files = qemu.prepare()
    except qemu.QemuError as error:
        raise GuestError(str(error), EX_UNAVAILABLE) from error
    start = functools.partial(
        qemu.command_line, files, directory=job.directory, init=HERE / "init-qemu.sh", memory_mib=job.memory_mib
    )
    if not job.command:
        with _spawn(start(console=["-serial", "stdio"], ports=()), job) as process:
            return _wait(process, job, Pump(os.open(os.devnull, os.O_RDONLY), None))
    pipes = [os.pipe() for _ in range(3)]
    ends = [write for _, write in pipes]
    console = ["-add-fd", f"fd={ends[0]},set=9", "-chardev", "file,id=console,path=/dev/fdset/9,append=on"]
    return _run_guest(
        start(console=[*console, "-serial", "chardev:console"], ports=ends[1:]), job, pipes, stdout, stderr
    )


def _run_guest(
    line: Sequence[str], job: Job, pipes: Sequence[tuple[int, int]], stdout: BinaryIO, stderr: BinaryIO
) -> int:
    """Run the emulator; the pipes carry its console, standard output and standard error."""
    ends = [write for _, write in pipes]
    with _spawn(line, job, ends) as process:
        for end in ends:
            os.close(end)
        console = Pump(pipes[0][0], None, keep_bytes=8192)
        pumps = [console, Pump(pipes[1][0], stdout), Pump(pipes[2][0], stderr)]
        try:
            return _wait(process, job, console)
        finally:
            _kill_group(process)
            for pump in pumps:
                pump.join(10)


@contextlib.contextmanager
def _spawn(line: Sequence[str], job: Job, keep: Sequence[int] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """The process as a group of its own (a shell keeps ours, it needs the terminal), all of it gone at the end."""
    if not job.command:
        process = subprocess.Popen(line, env=os.environ | {"HOME": str(job.directory)})
        try:
            yield process
        finally:
            process.kill()
            process.wait()
        return
    quiet = subprocess.DEVNULL if keep else None
    process = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=quiet,
        stderr=quiet,
        pass_fds=keep,
        start_new_session=True,
        env=os.environ | {"HOME": str(job.directory)} if keep else None,
    )
    with _guard(process.pid, job.directory):
        try:
            yield process
        finally:
            _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait(process: subprocess.Popen[bytes], job: Job, console: Pump) -> int:
    started = time.monotonic()
    booted, status = job.directory / "booted", job.directory / "status"
    up = False
    while process.poll() is None:
        passed_s = time.monotonic() - started
        up = up or booted.exists()
        if not up and passed_s > BOOT_TIMEOUT_S and job.command:
            raise GuestError(f"guest did not boot within {BOOT_TIMEOUT_S:.0f} s\n{_text(console)}", EX_SOFTWARE)
        if passed_s > job.timeout_s and job.command:
            raise GuestError(f"guest did not finish within {job.timeout_s:.0f} s; killed\n{_text(console)}", EX_TIMEOUT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    try:
        return int(status.read_text())
    except (OSError, ValueError):
        console.join(2)
        message = f"guest died without an exit status (kernel ended with {process.returncode})\n{_text(console)}"
        raise GuestError(message, EX_SOFTWARE) from None


def _text(console: Pump) -> str:
    return "last words of its console:\n" + console.tail.decode(errors="replace").replace("\r", "")


def run_directly(job: Job, place: str) -> int:
    """Run the job on this kernel, in a namespace of its own or where the interfaces already are."""
    script = job.directory / ("command" if job.command else "shell")
    line = ["bash", str(script)]
    if place == "netns":
        start = namespace_command()
        if start is None:
            raise GuestError("this kernel offers no vcan in a network namespace", EX_UNAVAILABLE)
        setup = 'mount -t sysfs sys /sys; sh "$0" && exec bash "$1"'
        line = [*start, "bash", "-c", setup, str(HERE / "vcan-up.sh"), str(script)]
    elif place == "lo":
        start = loopback_command()
        if start is None:
            raise GuestError("no network namespace can be made here (Debian: util-linux, iproute2)", EX_UNAVAILABLE)
        setup = 'ip link set lo up && ip route add 239.0.0.0/8 dev lo && exec bash "$0"'
        line = [*start, "bash", "-c", setup, str(script)]
    elif not have_interfaces():
        raise GuestError("vcan0 … vcan5 are not all up with mtu 72 here", EX_UNAVAILABLE)
    with _spawn(line, job) as process:
        try:
            return process.wait(job.timeout_s if job.command else None)
        except subprocess.TimeoutExpired:
            raise GuestError(f"command did not finish within {job.timeout_s:.0f} s; killed", EX_TIMEOUT) from None


# --- command line -----------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """The options of ``tests/vcan/run``."""
    parser = argparse.ArgumentParser(prog="tests/vcan/run", description="Run a command where vcan0..vcan5 exist.")
    place = parser.add_mutually_exclusive_group()
    for name, text in (
        ("auto", "the first place that works (default)"),
        ("uml", "a User-Mode Linux guest"),
        ("lo", "a network namespace with loopback only, no CAN; never taken by itself"),
        ("qemu", "an emulated machine with Debian's kernel, for kernel ISO-TP; never taken by itself"),
        ("netns", "a network namespace of this kernel"),
        ("host", "here, where vcan0..vcan5 are up already"),
    ):
        place.add_argument(f"--{name}", dest="place", action="store_const", const=name, default="auto", help=text)
    parser.add_argument("--timeout", type=float, default=1200.0, metavar="S", help="kill it after so long (1200)")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="memory of a guest (1024)")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME[=VALUE]", help="pass one more variable (repeatable)"
    )
    parser.add_argument("--verbose", action="store_true", help="tell where it runs")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="default: a shell")
    return parser


def run_command(
    command: Sequence[str],
    *,
    place: str = "auto",
    timeout_s: float = 1200.0,
    memory_mib: int = 1024,
    extra_environment: Sequence[str] = (),
    stdout: BinaryIO | None = None,
    stderr: BinaryIO | None = None,
    verbose: bool = False,
) -> int:
    """Run ``command`` (a shell when empty) from the current folder and return its exit status.

    Raises:
        GuestError: no place, no boot, a hang, or a death.
    """
    place = choose_place() if place == "auto" else place
    if verbose:
        print(f"vcan: {place}", file=sys.stderr)
    directory = Path(tempfile.mkdtemp(prefix="vcan-"))
    try:
        inside = str(directory / "tmp")
        coloured = stdout is None and sys.stdout.isatty()
        environment = passed_environment(extra_environment, place, inside, coloured=coloured)
        job = Job(command, directory, environment, Path.cwd(), timeout_s, memory_mib)
        job.write()
        if place in ("uml", "qemu"):
            run_guest = run_uml if place == "uml" else run_qemu
            return run_guest(job, stdout or sys.stdout.buffer, stderr or sys.stderr.buffer)
        return run_directly(job, place)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; a failure of the guest itself is told on stderr."""
    arguments = build_parser().parse_args(argv)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command and not sys.stdin.isatty():
        print("tests/vcan/run: a command is needed when there is no terminal for a shell", file=sys.stderr)
        return EX_USAGE
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        return run_command(
            command,
            place=arguments.place,
            timeout_s=arguments.timeout,
            memory_mib=arguments.memory,
            extra_environment=arguments.env,
            verbose=arguments.verbose,
        )
    except GuestError as error:
        print(f"tests/vcan/run: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
