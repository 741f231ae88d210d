"""The control socket of a running simulation: one JSON object a line in, one out.

Requests have ``do``: ``state``, ``faults``, ``inject`` (``fault`` as on the command line; a start is relative to
now), ``clear`` (``number``, or all), ``pause``, ``resume``, ``speed`` (``value``), ``command`` (``message``,
``values``: acts as if it came over the bus), ``stop``; and those of ``simulator.ecu.control`` where the run has ECUs.
Answers have ``ok``; where it is false, ``error`` says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from simulator.actuation import command_payload
from simulator.faults import FaultError, parse_fault
from simulator.runner import Runner

MAX_LINE_BYTES = 64 * 1024
MAX_CLIENTS = 16


class Watcher(Protocol):
    """What tells when a file is readable."""

    def watch(self, file: int, handle: Callable[[], None]) -> None:
        """Call ``handle`` whenever it is."""

    def unwatch(self, file: int) -> None:
        """No longer."""


class ControlError(ValueError):
    """A request that cannot be carried out."""


def state(runner: Runner) -> dict[str, Any]:
    """What the vehicle does now, for people and tests."""
    simulation = runner.simulation
    v = simulation.vehicle
    return {
        "scenario": simulation.scenario.name,
        "phase": simulation.phase_name,
        "simulated_s": simulation.now_ns / 1e9,
        "paused": runner.paused,
        "speed": runner.speed,
        "speed_km_h": round(v.drive.speed_m_s * 3.6, 2),
        "odometer_km": round(v.drive.odometer_m / 1000, 3),
        "soc": round(v.battery.soc, 5),
        "gear": v.gear.name,
        "ready": v.ready,
        "charging": v.charge_state.name,
        "latitude": v.place.latitude,
        "longitude": v.place.longitude,
        "locked": v.body.locks == [1] * 5,
        "horn": v.body.horn,
        "valet": v.body.valet,
        "climate": v.climate.on,
        "remote_start": v.body.remote_start,
        "results": {name: result.name.lower() for name, result in v.body.results.items()},
        "frames": {name: count.sent for name, count in runner.sink.counts().items()},
    }


Action = Callable[[dict[str, Any]], dict[str, Any]]


class Control:
    """Carries out requests; knows nothing of sockets."""

    def __init__(self, runner: Runner, more: Mapping[str, Action] | None = None) -> None:
        """``more``: further actions by name; they may raise ``ValueError``, ``KeyError``, ``TypeError``."""
        self._runner = runner
        self._counter = 0
        self._table: dict[str, Action] = {
            "state": lambda request: state(runner),
            "faults": lambda request: {"faults": runner.simulation.faults.listed(runner.simulation.now_ns / 1e9)},
            "inject": self._inject,
            "clear": self._clear,
            "pause": lambda request: self._pause(True),
            "resume": lambda request: self._pause(False),
            "speed": self._speed,
            "command": self._command,
            "stop": self._stop,
            **(more or {}),
        }

    def answer(self, line: bytes) -> bytes:
        """The answer to one line, whatever it holds."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ControlError("expected a JSON object")
            action = self._table.get(str(request.get("do")))
            if action is None:
                raise ControlError(f"do: one of {', '.join(self._table)}")
            reply = {"ok": True, **action(request)}
        except RecursionError:
            reply = {"ok": False, "error": "nested too deeply"}
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            reply = {"ok": False, "error": str(error)}
        return json.dumps(reply).encode() + b"\n"

    def _inject(self, request: dict[str, Any]) -> dict[str, Any]:
        text = request.get("fault")
        if not isinstance(text, str):
            raise ControlError("fault: a text such as noise:chassis.VehicleDynamics.YawRate@0+5=2")
        simulation = self._runner.simulation
        fault = parse_fault(text)
        fault = replace(fault, at_s=fault.at_s + simulation.now_ns / 1e9)
        return {"number": simulation.faults.add(fault)}

    def _clear(self, request: dict[str, Any]) -> dict[str, Any]:
        number = request.get("number")
        if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
            raise ControlError("number: a whole number, or none for all")
        return {"cleared": self._runner.simulation.faults.clear(number)}

    def _pause(self, paused: bool) -> dict[str, Any]:
        self._runner.paused = paused
        return {"paused": paused}

    def _speed(self, request: dict[str, Any]) -> dict[str, Any]:
        value = request.get("value")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1000:
            raise ControlError("value: a number above 0, at most 1000")
        self._runner.speed = float(value)
        return {"speed": self._runner.speed}

    def _command(self, request: dict[str, Any]) -> dict[str, Any]:
        simulation = self._runner.simulation
        name, values = request.get("message"), request.get("values", {})
        message = next((m for m in simulation.manifest.messages if m.name == name and m.name.endswith("Command")), None)
        if message is None or not isinstance(values, dict):
            raise ControlError("message: an actuator message such as LockCommand, values: its signals")
        if not all(isinstance(v, int | float) and abs(v) < 1e9 for v in values.values()):
            raise ControlError("values: numbers")
        for _ in range(2):  # the counter of the last frame heard on the bus may be the one we would send
            self._counter = (self._counter + 1) % 16
            payload = command_payload(message, values, self._counter)
            result = simulation.actuators.receive(message.bus, message.can_id, payload)
            if result is None or result.name != "REPEATED":
                break
        return {"result": result.name.lower() if result is not None else "none"}

    def _stop(self, request: dict[str, Any]) -> dict[str, Any]:
        self._runner.stop_requested = True
        return {}


class ControlServer:
    """A unix socket for ``Control``, readable by its owner only. With no path it does nothing."""

    def __init__(
        self, path: Path | None, runner: Runner, watcher: Watcher, more: Mapping[str, Action] | None = None
    ) -> None:
        self._path, self._watcher = path, watcher
        self._control = Control(runner, more)
        self._listener: socket.socket | None = None
        self._clients: dict[int, tuple[socket.socket, bytearray]] = {}

    def __enter__(self) -> Self:
        if self._path is None:
            return self
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise OSError(f"{self._path} exists and is no socket")
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(str(self._path))
        except OSError as error:
            listener.close()
            raise OSError(f"--control {self._path}: {error.strerror or error}") from error
        finally:
            os.umask(before)
        listener.listen(4)
        listener.setblocking(False)
        self._listener = listener
        self._watcher.watch(listener.fileno(), self._accept)
        return self

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            if len(self._clients) >= MAX_CLIENTS:
                client.close()
                return
            client.setblocking(False)
            number = client.fileno()
            self._clients[number] = (client, bytearray())
            self._watcher.watch(number, lambda: self._read(number))

    def _read(self, number: int) -> None:
        client, pending = self._clients[number]
        try:
            received = client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        pending += received
        try:
            while (end := pending.find(b"\n")) >= 0:
                line = bytes(pending[:end])
                del pending[: end + 1]
                client.sendall(self._control.answer(line))
        except OSError:
            received = b""
        if not received or len(pending) > MAX_LINE_BYTES:
            self._watcher.unwatch(number)
            client.close()
            del self._clients[number]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client, _ in self._clients.values():
            client.close()
        if self._listener is not None:
            self._listener.close()
            with contextlib.suppress(OSError):
                assert self._path is not None
                self._path.unlink()


assert issubclass(FaultError, ValueError)  # so that Control.answer reports it
