"""The demo's parts: a cloud, vehicles with a gateway each, what drives them, and what came of it.

Everything goes through ``outrider`` commands and the REST interface; nothing here knows the inside of a part.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway.errors import GatewayError
from gateway.status import Status, read_status
from outrider.demo.processes import Child, Children, DemoError, run, wait_until

MARKER = ".outrider-demo"
READY_S = 60.0
#: Sections of a configuration with their keys and values.
Settings = Mapping[str, Mapping[str, object]]


def fresh_directory(path: Path) -> Path:
    """An empty working directory; one that an earlier demo made is emptied, any other is refused."""
    if path.exists() and any(path.iterdir()):
        if not (path / MARKER).exists():
            raise DemoError(f"{path} is not empty and was not made by a demo; choose another with --dir")
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / MARKER).touch()
    (path / "logs").mkdir()
    return path


def free_port(wanted: int) -> int:
    """The wanted port of the loopback interface, or any free one."""
    for port in (wanted, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise DemoError("no free port on 127.0.0.1")


class Cloud:
    """A cloud of its own in a directory, and an operator logged in to it."""

    def __init__(self, directory: Path, children: Children, *, port: int = 8080, vehicle_port: int = 8443) -> None:
        self.directory, self._children = directory, children
        self.admin, self.password = "admin", secrets.token_urlsafe(9)
        self.port, self.vehicle_port = free_port(port), free_port(vehicle_port)
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = directory / "cloud.toml"
        self._http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        self.process: Child | None = None

    def start(self) -> None:
        """Initialise it the first time, run it, log in."""
        if not self.config.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            password_file = self.directory / "admin-password"
            password_file.touch(mode=0o600)
            password_file.write_text(self.password + "\n")
            ports = ("--operator-port", str(self.port), "--vehicle-port", str(self.vehicle_port))
            run("cloud", "init", "--dir", str(self.directory), *ports, "--password-file", str(password_file))
        self.process = self._children.start("cloud", "cloud", "run", "--config", str(self.config))
        wait_until("the cloud's readiness", self._is_ready, READY_S, self.process)
        answer = self._http.post("/api/v1/login", json={"name": self.admin, "password": self.password})
        answer.raise_for_status()
        self._http.headers["Authorization"] = "Bearer " + answer.json()["token"]

    def _is_ready(self) -> bool:
        try:
            return self._http.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, **params: str | int) -> Any:
        """One REST answer."""
        answer = self._http.get(path, params=params)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: object) -> Any:
        """One REST answer to something sent.

        Raises:
            DemoError: it was refused.
        """
        answer = self._http.post(path, json=body)
        if answer.is_error:
            raise DemoError(f"the cloud refused {path}: {answer.text}")
        return answer.json()

    def load_texts(self, file: Path) -> None:
        """Words for trouble codes that only this maker has."""
        self._http.put("/api/v1/faults/texts", params={"name": file.name}, content=file.read_bytes()).raise_for_status()

    def token(self, vehicle: str) -> str:
        """A one-time token for a vehicle's enrolment."""
        out = run("cloud", "token", "create", vehicle, "--config", str(self.config), "--json")
        return str(json.loads(out)["token"])

    def accounting(self, vehicle: str) -> Any:
        """What the cloud holds of the vehicle, compared with what the vehicle says."""
        return self.get(f"/api/v1/vehicles/{vehicle}/accounting")

    def has_stopped(self, vehicle: str) -> bool:
        """Whether the vehicle's last report was that it stops."""
        answer = self._http.get(f"/api/v1/vehicles/{vehicle}/check-in")
        return answer.is_success and bool(answer.json()["stopping"])

    def close(self) -> None:
        """Close the connection, not the cloud."""
        self._http.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bus:
    """One bus of a vehicle: what decodes it, and where its frames come from."""

    name: str
    dbc: Path
    interface: str
    channel: str
    log_bus: str = ""


EVERYTHING = """\
id = "{id}"
version = 1
description = "every signal of every message, when it changes and once a second"

[[signals]]
name = "*"
on_change = true
heartbeat_ms = 1000
"""


class Vehicle:
    """A vehicle in a directory: manifest, schemes, identity, spool; and its gateway process."""

    def __init__(self, name: str, directory: Path, children: Children, buses: Sequence[Bus]) -> None:
        self.name, self.directory, self.buses = name, directory, tuple(buses)
        self._children = children
        self.config = directory / "gateway.toml"
        self.process: Child | None = None

    def prepare(
        self,
        cloud: Cloud,
        *,
        schemes: Mapping[str, str] | None = None,
        settings: Settings | None = None,
        speed: float = 1.0,
        more: str = "",
    ) -> None:
        """Compile the manifest, write schemes and configuration, enrol.

        Args:
            cloud: where it belongs.
            schemes: file name -> content; everything on change by default.
            settings: section -> key -> value, over what the demo sets in the gateway's configuration.
            speed: of a replay.
            more: text that is put behind the gateway's configuration.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        pairs = [part for bus in self.buses for part in ("--dbc", f"{bus.name}={bus.dbc}")]
        run("dbc", "compile", *pairs, "--out", str(self.directory / "vehicle.manifest"))
        files = schemes or {"everything.toml": EVERYTHING.format(id="everything")}
        for name, content in files.items():
            (self.directory / name).write_text(content)
        self.config.write_text(self._config_text(list(files), settings or {}, speed) + more)
        token_file = self.directory / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(cloud.token(self.name))
        try:
            identity = str(self.directory / "identity")
            where = ("--cloud", cloud.url, "--vehicle", self.name, "--directory", identity)
            run("gateway", "enrol", *where, "--token", f"@{token_file}")
        finally:
            token_file.unlink()

    def _config_text(self, schemes: Sequence[str], settings: Settings, speed: float) -> str:
        lines = [f"vehicle = {json.dumps(self.name)}"]
        for bus in self.buses:
            lines += ["", "[[buses]]", f'name = "{bus.name}"', f'interface = "{bus.interface}"']
            lines += [f"channel = {json.dumps(bus.channel)}", 'filters = "off"']
            if bus.log_bus:
                lines.append(f"log_bus = {json.dumps(bus.log_bus)}")
        sections: dict[str, dict[str, object]] = {
            "collect": {"manifest": "vehicle.manifest", "schemes": list(schemes)},
            "link": {"identity_directory": "identity", "check_in_s": 2.0},
            "telemetry": {"normal_period_s": 5.0, "critical_period_s": 1.0},
        }
        if any(bus.interface == "replay" for bus in self.buses):
            sections |= {"replay": {"speed": speed}, "runtime": {"exit_when_replayed": True}}
        for name, values in settings.items():
            sections.setdefault(name, {}).update(values)
        for name, values in sections.items():
            lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        return "\n".join(lines) + "\n"

    def start(self) -> None:
        """Run the gateway and wait until it is ready."""
        self.process = self._children.start(
            f"gateway-{self.name}", "gateway", "run", "--config", str(self.config), "--log-level", "info"
        )
        wait_until("the gateway's readiness", self._is_ready, READY_S, self.process)

    def _is_ready(self) -> bool:
        return self.process is not None and self.process.has_logged("gateway_ready")

    def status(self) -> Status | None:
        """What the gateway says of itself, None when it does not answer."""
        try:
            return read_status(self.directory / "gateway.sock")
        except GatewayError:
            return None

    def stop(self) -> int:
        """Stop it cleanly; its exit status."""
        return self.process.stop() if self.process else 0


def data_directory() -> Path:
    """Where recorded drives are, if they are there."""
    root = Path(__file__).resolve().parent.parent.parent
    return Path(os.environ.get("OUTRIDER_DATA", root.parent / "shared" / "data"))
