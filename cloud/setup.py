"""``outrider cloud init``: keys, certificates, configuration, database and the first admin. Idempotent."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloud.app import build_services, new_secret, running
from cloud.auth.audit import CLI
from cloud.clock import SystemClock
from cloud.config import load_config
from cloud.identity.authority import Authority, create_ca
from cloud.identity.signing import ensure_order_key
from cloud.updates.keys import OnlineKeys

CONFIG_NAME = "cloud.toml"
TEMPLATE = """\
# Configuration of the Outrider cloud. Every key and its default: docs/operator/run-the-cloud.md
log_format = "text"

[operator]
host = "{host}"
port = {operator_port}
{operator_tls}
[vehicle]
host = "{host}"
port = {vehicle_port}
{vehicle_url}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions:
    """What to set up."""

    directory: Path
    hosts: Sequence[str]  # names and addresses vehicles and browsers use
    listen: str = "127.0.0.1"
    operator_port: int = 8080
    vehicle_port: int = 8443
    operator_tls: bool = False
    admin: str = "admin"
    password: str | None = None


@dataclass(frozen=True, slots=True)
class InitResult:
    """What was done. ``password`` is set when one was made up."""

    config: Path
    made: list[str]
    password: str | None
    admin_exists: bool


def write_private(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Create a file that did not exist, durable, with its mode from the first moment."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _make_pki(options: InitOptions) -> list[str]:
    """Keys and certificates that are missing."""
    pki, made = options.directory / "pki", []
    now_ns = SystemClock().now_ns()
    if not ((pki / "ca.pem").exists() and (pki / "ca.key").exists()):
        certificate, key = create_ca("Outrider vehicle CA", now_ns=now_ns)
        write_private(pki / "ca.key", key)
        write_private(pki / "ca.pem", certificate, mode=0o644)
        made.append("pki/ca.pem")
    authority = Authority((pki / "ca.pem").read_bytes(), (pki / "ca.key").read_bytes())
    ports = ["vehicle-port", *(["operator-port"] if options.operator_tls else [])]
    for port in ports:
        if (pki / f"{port}.pem").exists() and (pki / f"{port}.key").exists():
            continue
        chain, key = authority.issue_server(options.hosts, now_ns=now_ns)
        write_private(pki / f"{port}.key", key)
        write_private(pki / f"{port}.pem", chain, mode=0o644)
        made.append(f"pki/{port}.pem")
    if not (pki / "session.key").exists():
        write_private(pki / "session.key", new_secret())
        made.append("pki/session.key")
    if not (pki / "order.key").exists():
        ensure_order_key(pki / "order.key")
        made.append("pki/order.key")
    made += [f"pki/uptane/{name}" for name in OnlineKeys(pki / "uptane").ensure()]
    return made


async def init(options: InitOptions) -> InitResult:
    """Set up a directory; what exists is left as it is.

    Raises:
        ConfigError, StorageError, InvalidInput, OSError: it could not be done.
    """
    options.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = _make_pki(options)
    path = options.directory / CONFIG_NAME
    if not path.exists():
        tls = 'certificate = "pki/operator-port.pem"\nkey = "pki/operator-port.key"\n' if options.operator_tls else ""
        url = "" if options.hosts[0] == options.listen else f"https://{options.hosts[0]}:{options.vehicle_port}"
        text = TEMPLATE.format(
            host=options.listen,
            operator_port=options.operator_port,
            vehicle_port=options.vehicle_port,
            operator_tls=tls,
            vehicle_url=f'public_url = "{url}"\n' if url and options.vehicle_port else "",
        )
        write_private(path, text.encode("utf-8"))
        made.append(CONFIG_NAME)
    services = build_services(load_config(path))
    password = None
    async with running(services, background=False):
        admin_exists = any(user.role == "admin" for user in await services.users.list())
        if not admin_exists:
            password = None if options.password else secrets.token_urlsafe(12)
            await services.users.add(options.admin, options.password or password or "", "admin", CLI)
            made.append(f"user {options.admin}")
    os.chmod(services.db.path, 0o600)
    return InitResult(path, made, password, admin_exists)
