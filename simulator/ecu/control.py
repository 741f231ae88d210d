"""What the control socket can do with ECUs. Requests name one by ``ecu``.

``ecus``: states of all. ``ecu``: state of one. ``ecu_requests``: the last requests and answers. ``ecu_reset``.
``ecu_power`` (``on``). ``ecu_quirks`` (``set``: as in the description; without it, tells them). ``ecu_nv`` (``key``).
Modules of services add their own to ``ECU_ACTIONS``: a function of the ECU's context and the request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from simulator.ecu.context import EcuContext

if TYPE_CHECKING:
    from simulator.ecu.host import EcuHost, HostedEcu

Action = Callable[[dict[str, Any]], dict[str, Any]]
#: (context, request, now_s) to the answer; may raise ``ValueError``, ``KeyError``, ``TypeError``.
EcuAction = Callable[[EcuContext, dict[str, Any], float], dict[str, Any]]

#: More actions, by the name in ``do``.
ECU_ACTIONS: dict[str, EcuAction] = {}


class EcuControl:
    """Carries out requests on the ECUs of a host."""

    def __init__(self, host: EcuHost) -> None:
        self._host = host

    def actions(self) -> dict[str, Action]:
        """By the name in ``do``."""
        own: dict[str, Action] = {
            "ecus": lambda request: {"ecus": {name: ecu.state() for name, ecu in self._host.ecus.items()}},
            "ecu": lambda request: {"ecu": self._one(request).state()},
            "ecu_requests": lambda request: {"requests": list(self._one(request).record)},
            "ecu_reset": self._reset,
            "ecu_power": self._power,
            "ecu_quirks": self._quirks,
            "ecu_nv": self._nv,
        }
        return own | {name: self._bound(action) for name, action in ECU_ACTIONS.items()}

    def _one(self, request: dict[str, Any]) -> HostedEcu:
        ecu = self._host.ecus.get(str(request.get("ecu")))
        if ecu is None:
            raise ValueError(f"ecu: one of {', '.join(self._host.ecus)}")
        return ecu

    def _bound(self, action: EcuAction) -> Action:
        return lambda request: action(self._one(request).server.context, request, self._host.now_s())

    def _reset(self, request: dict[str, Any]) -> dict[str, Any]:
        self._one(request).server.reset(self._host.now_s())
        return {}

    def _power(self, request: dict[str, Any]) -> dict[str, Any]:
        on = request.get("on")
        if not isinstance(on, bool):
            raise ValueError("on: true or false")
        ecu = self._one(request)
        ecu.power(on)
        return {"power": ecu.server.state()["power"]}

    def _quirks(self, request: dict[str, Any]) -> dict[str, Any]:
        context = self._one(request).server.context
        changes = request.get("set", {})
        if not isinstance(changes, dict):
            raise ValueError("set: an object of quirks")
        context.set_quirks(**changes)
        return {"quirks": msgspec.to_builtins(context.quirks)}

    def _nv(self, request: dict[str, Any]) -> dict[str, Any]:
        nv = self._one(request).server.context.nv
        key = request.get("key")
        if key is None:
            return {"keys": nv.keys()}
        value = nv.get(str(key))
        return {"value": value.hex() if isinstance(value, bytes) else msgspec.to_builtins(value)}
