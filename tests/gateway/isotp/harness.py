"""Conversations without a loop: a tester and an ECU joined by a wire in virtual time, or one that hears raw frames."""

from __future__ import annotations

from collections.abc import Callable

from gateway.isotp.conversation import Conversation
from gateway.isotp.model import Address, Addressing, IsoTpError, Settings, fixed

MS = 1_000_000
NORMAL = Address(tx_id=0x7E0, rx_id=0x7E8)
EXTENDED = Address(
    tx_id=0x6F1, rx_id=0x629, addressing=Addressing.EXTENDED, tx_extension=0x29, rx_extension=0xF1
)  # fmt: skip
FIXED = fixed(0x50, 0xF1)
MIXED = Address(tx_id=0x7E0, rx_id=0x7E8, addressing=Addressing.MIXED, tx_extension=0x99, rx_extension=0x99)
MIXED_29 = fixed(0x50, 0xF1, extension=0x99)
ADDRESSES = {"normal": NORMAL, "fixed": FIXED, "extended": EXTENDED, "mixed": MIXED, "mixed_29": MIXED_29}


class Node:
    """A conversation whose frames are taken by a bus at once. What it sends is in ``sent``."""

    def __init__(self, settings: Settings | None = None, address: Address = NORMAL) -> None:
        self.core = Conversation(address, settings or Settings())
        self.now_ns = 1_000_000_000
        self.sent: list[bytes] = []
        self.sent_ns: list[int] = []
        self.received: list[bytes] = []
        self.errors: list[str] = []
        self.outcome: object = None

    def take(self, events: tuple[bytes | IsoTpError, ...]) -> None:
        for event in events:
            if isinstance(event, IsoTpError):
                self.errors.append(event.reason)
            else:
                self.received.append(event)

    def hear(self, data: bytes | str) -> list[bytes]:
        """A frame comes; returns what is sent at once."""
        raw = bytes.fromhex(data) if isinstance(data, str) else data
        self.take(self.core.receive(raw, self.now_ns))
        return self.pump()

    def send(self, pdu: bytes) -> list[bytes]:
        self.core.sender.start(pdu)
        return self.pump()

    def pump(self) -> list[bytes]:
        out = []
        while (payload := self.core.offer(self.now_ns)) is not None:
            out.append(payload)
            self.core.sent(self.now_ns)
            self.sent_ns.append(self.now_ns)
        self.sent += out
        ended = self.core.sender.take_outcome()
        if ended is not None:
            self.outcome = ended.reason if isinstance(ended, IsoTpError) else ended
        return out

    def wait(self, ms: float) -> list[bytes]:
        """Time passes, all deadlines and pauses kept on the way."""
        end, out = self.now_ns + round(ms * MS), []
        while (at := self.next_ns()) is not None and at <= end:
            self.now_ns = max(self.now_ns, at)
            self.take(self.core.expire(self.now_ns))
            out += self.pump()
        self.now_ns = end
        return out

    def next_ns(self) -> int | None:
        times = [t for t in (self.core.deadline_ns, self.core.resume_ns) if t is not None]
        return min(times, default=None)


def exchange(a: Node, b: Node, pdu: bytes, seen: Callable[[bytes], None] = lambda frame: None) -> None:
    """``a`` sends ``pdu`` to ``b``; time passes as STmin needs. Ends when neither has anything to do."""
    to_b, to_a = a.send(pdu), []
    while True:
        for frame in to_b:
            seen(frame)
            to_a += b.hear(frame)
        to_b = []
        for frame in to_a:
            to_b += a.hear(frame)
        to_a = []
        if not to_b:
            resume_ns = a.core.resume_ns
            if resume_ns is None:
                return
            a.now_ns = b.now_ns = max(a.now_ns, resume_ns)
            to_b = a.pump()
