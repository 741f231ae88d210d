"""The firewall as the configuration wants it: policy, audit log and core, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.diag.config import FirewallSection
from gateway.errors import ConfigError
from gateway.firewall.audit_log import AuditLog, Emit
from gateway.firewall.audit_store import key_of
from gateway.firewall.check import check
from gateway.firewall.core import Firewall
from gateway.firewall.policy import default_policy, load_policy
from gateway.firewall.rules import CompiledPolicy, compile_policy
from gateway.firewall.state import VehicleFacts
from gateway.runtime import Clock, HealthBoard


def read_policy(section: FirewallSection, base: Path, names: Mapping[str, int]) -> CompiledPolicy:
    """The policy in force, checked; ``names`` are the targets' addresses (``gateway.diag.router.names_of``).

    Raises:
        ConfigError: the file is missing or wrong, or has a rule that never applies.
    """
    if not section.policy:
        return compile_policy(default_policy(), names)
    path = base / section.policy
    compiled = compile_policy(load_policy(path), names, path=str(path))
    if problems := check(compiled):
        raise ConfigError("; ".join(problems), path=str(path))
    return compiled


def open_firewall(
    section: FirewallSection,
    base: Path,
    *,
    names: Mapping[str, int],
    identity: Path | None,
    vehicle: Callable[[int], VehicleFacts],
    clock: Clock,
    emit: Emit | None = None,
    health: HealthBoard | None = None,
) -> tuple[Firewall, AuditLog]:
    """The firewall, and the component that keeps its records and lockouts. ``vehicle`` is told monotonic nanoseconds.

    Raises:
        ConfigError: the policy or the audit key is wrong.
    """
    audit = AuditLog(
        base / section.audit_directory,
        max_bytes=section.audit_max_bytes,
        key=key_of(identity),
        clock=clock,
        emit=emit,
        health=health,
    )
    firewall = Firewall(
        read_policy(section, base, names),
        vehicle=vehicle,
        record=audit.record,
        changed=audit.changed,
        mode=section.mode,
    )
    audit.keep(firewall.guard)
    return firewall, audit
