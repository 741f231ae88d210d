"""The body controller's ears: actuator frames, their checksum and counter, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping

from dbc.manifest import Kind, Manifest, Message, Signal
from simulator.model.body import ACTUATORS, Result
from simulator.model.vehicle import Vehicle
from simulator.protection import CRCS


class Actuators:
    """Receives frames of the actuator messages and lets the vehicle act; counts what it did with them."""

    def __init__(self, manifest: Manifest, vehicle: Vehicle) -> None:
        self._vehicle = vehicle
        self._messages: dict[tuple[int, int], Message] = {
            (m.bus, m.can_id): m
            for m in manifest.messages
            if m.name in ACTUATORS and any(s.role == "actuator" for s in m.signals)
        }
        self._last_counter: dict[str, int] = {}
        self.accepted = 0
        self.refused = 0

    @property
    def identifiers(self) -> dict[int, list[int]]:
        """Per bus index, the identifiers that are listened to."""
        out: dict[int, list[int]] = {}
        for bus, can_id in self._messages:
            out.setdefault(bus, []).append(can_id)
        return out

    def receive(self, bus: int, can_id: int, payload: bytes) -> Result | None:
        """Act on a frame. None: it is no actuator message. Too short, wrong checksum, a counter seen: nothing moves."""
        message = self._messages.get((bus, can_id))
        if message is None:
            return None
        result = self._judge(message, payload)
        if result == Result.ACCEPTED:
            self.accepted += 1
        else:
            self.refused += 1
        return result

    def _judge(self, message: Message, payload: bytes) -> Result:
        body = self._vehicle.body
        if len(payload) != message.length or not _sound(message, payload):
            body.refuse(message.name, Result.BAD_CHECKSUM)
            return Result.BAD_CHECKSUM
        values = {s.name: _physical(s, payload) for s in message.signals}
        counter = int(values.get("Counter", -1))
        if self._last_counter.get(message.name) == counter:
            body.refuse(message.name, Result.REPEATED)
            return Result.REPEATED
        self._last_counter[message.name] = counter
        vehicle = self._vehicle
        return body.command(
            message.name, values, inhibit=vehicle.start_inhibit(), speed_kmh=vehicle.drive.speed_m_s * 3.6
        )


def _raw(signal: Signal, payload: bytes) -> int:
    """Bits of a little-endian unsigned signal: all that actuator messages have."""
    return int.from_bytes(payload, "little") >> signal.start & (1 << signal.length) - 1


def _physical(signal: Signal, payload: bytes) -> float:
    raw = _raw(signal, payload)
    if signal.kind == Kind.SIGNED and raw >> signal.length - 1:
        raw -= 1 << signal.length
    return raw * signal.scale + signal.offset


def _sound(message: Message, payload: bytes) -> bool:
    checksum = next((s for s in message.signals if s.role == "checksum"), None)
    if checksum is None or message.checksum not in CRCS:
        return True
    rest = int.from_bytes(payload, "little") & ~(((1 << checksum.length) - 1) << checksum.start)
    content = rest.to_bytes(len(payload), "little")
    if message.checksum_data_id:
        content += message.checksum_data_id.to_bytes(2, "little")
    return CRCS[message.checksum].of(content) == _raw(checksum, payload)


def command_payload(message: Message, values: Mapping[str, float], counter: int) -> bytes:
    """A sound actuator frame, as a gateway would send it; for tests and the control socket.

    Raises:
        ValueError: a name the message does not have, or a value out of its bits.
    """
    known = {s.name: s for s in message.signals}
    total = 0
    for name, value in {**values, "Counter": counter}.items():
        if name not in known:
            raise ValueError(f"{message.name} has no signal {name!r}")
        signal = known[name]
        raw = round((value - signal.offset) / signal.scale)
        if not 0 <= raw < 1 << signal.length:
            raise ValueError(f"{message.name}.{name}: {value} is out of range")
        total |= raw << signal.start
    payload = bytearray(total.to_bytes(message.length, "little"))
    checksum = next((s for s in message.signals if s.role == "checksum"), None)
    if checksum is not None:
        data_id = message.checksum_data_id.to_bytes(2, "little") if message.checksum_data_id else b""
        value = CRCS[message.checksum].of(bytes(payload) + data_id)
        payload[checksum.start // 8] = value & 0xFF
    return bytes(payload)
