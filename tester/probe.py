"""Finding ECUs on a CAN bus frame by frame: "tester present" to each identifier, and who answers.

3E 00 is the one request that changes nothing anywhere. Still, nothing is sent on identifiers that carry other traffic:
the bus is listened to first. Answers are told from traffic by what they say (7E 00, or 7F 3E and a reason).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import anyio
import msgspec

from gateway.can.link import CanFrame, CanLink, LinkBusyError

LISTEN_S = 0.3
BATCH = 16
GAP_S = 0.002
TESTER = 0xF1
FUNCTIONAL = ((0x7DF, False), (0x18DB33F1, True))
EXTENDED_REQUEST = 0x6F1  # a tester's identifier with extended addressing, as commonly used
_REQUEST = b"\x02\x3e\x00"
_PADDING = b"\xcc"


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """An ECU that answered: where requests go and answers come from. ``target``: with extended addressing."""

    request_id: int
    response_id: int
    extended_id: bool = False
    target: int | None = None


def frame(can_id: int, *, extended: bool = False, target: int | None = None) -> CanFrame:
    """3E 00 as a single frame of eight bytes."""
    data = (b"" if target is None else bytes([target])) + _REQUEST
    return CanFrame(can_id, data.ljust(8, _PADDING), extended)


def is_answer(data: bytes, skip: int = 0) -> bool:
    """Whether a frame answers 3E 00, positively or not."""
    body = data[skip : skip + 4]
    return body[:3] == b"\x02\x7e\x00" or (len(body) == 4 and body[:3] == b"\x03\x7f\x3e")


class Prober:
    """Sends probes and collects answers, on one link."""

    def __init__(self, link: CanLink, *, wait_s: float = 0.08) -> None:
        """``wait_s``: for an answer, after the last probe of a batch."""
        self._link, self._wait_s = link, wait_s
        self._heard: list[CanFrame] = []
        self.busy: set[tuple[int, bool]] = set()

    async def listen(self, seconds: float = LISTEN_S) -> None:
        """Learn which identifiers carry traffic; they are not sent on."""
        end = self._link.hear(None, lambda f: self.busy.add((f.can_id, f.extended)))
        await anyio.sleep(seconds)
        end()

    async def _send(self, frames: Iterable[CanFrame]) -> list[CanFrame]:
        """Send, wait, and give what came meanwhile."""
        heard: list[CanFrame] = []
        end = self._link.hear(None, heard.append)
        try:
            for one in frames:
                while True:
                    try:
                        self._link.send(one)
                    except LinkBusyError:
                        await anyio.sleep(GAP_S)
                    else:
                        break
                await anyio.sleep(GAP_S)
            await anyio.sleep(self._wait_s)
        finally:
            end()
        return heard

    async def functional(self) -> list[Hit]:
        """Those of 0x7DF and 18DB33F1, by the usual pairs of identifiers."""
        found: dict[tuple[int, bool], Hit] = {}
        for request, extended in FUNCTIONAL:
            for f in await self._send([frame(request, extended=extended)]):
                if f.extended != extended or not is_answer(f.data):
                    continue
                if extended and f.can_id >> 8 == 0x18DA00 | TESTER:
                    hit = Hit(request_id=0x18DA0000 | (f.can_id & 0xFF) << 8 | TESTER, response_id=f.can_id,
                              extended_id=True)  # fmt: skip
                elif not extended and 0x708 <= f.can_id <= 0x7FF:
                    hit = Hit(request_id=f.can_id - 8, response_id=f.can_id)
                else:
                    continue
                found[f.can_id, f.extended] = hit
        return list(found.values())

    async def eleven_bit(
        self, identifiers: Sequence[int], skip: Iterable[int] = (), progress: Callable[[int], None] | None = None
    ) -> list[Hit]:
        """Each identifier in turn: batches, and in a batch that brought answers each alone."""
        avoid = set(skip) | {can_id for can_id, extended in self.busy if not extended} | {0x7DF}
        todo = [i for i in identifiers if i not in avoid]
        found: dict[int, Hit] = {}
        for start in range(0, len(todo), BATCH):
            batch = [i for i in todo[start : start + BATCH] if i not in {hit.response_id for hit in found.values()}]
            answers = [f for f in await self._send(frame(i) for i in batch) if not f.extended and is_answer(f.data)]
            for identifier in batch if answers else ():
                for f in await self._send([frame(identifier)]):
                    if not f.extended and is_answer(f.data) and f.can_id != identifier:
                        found.setdefault(f.can_id, Hit(request_id=identifier, response_id=f.can_id))
            if progress is not None:
                progress(start + len(batch))
        return list(found.values())

    async def fixed(self, targets: Sequence[int] = range(256), source: int = TESTER) -> list[Hit]:
        """29-bit normal fixed addressing: 18DA<target><source>; the answer names its sender."""
        sent = [t for t in targets if t != source and (0x18DA0000 | t << 8 | source, True) not in self.busy]
        frames = [frame(0x18DA0000 | t << 8 | source, extended=True) for t in sent]
        found = {
            f.can_id: Hit(
                request_id=0x18DA0000 | (f.can_id & 0xFF) << 8 | source, response_id=f.can_id, extended_id=True
            )
            for f in await self._send(frames)
            if f.extended and f.can_id >> 8 == 0x18DA00 | source and is_answer(f.data)
        }
        return list(found.values())

    async def extended(self, targets: Sequence[int] = range(256), request: int = EXTENDED_REQUEST) -> list[Hit]:
        """Extended addressing: the target's address is the first byte, ours the first of the answer."""
        if (request, False) in self.busy:
            return []
        frames = [frame(request, target=t) for t in targets]
        found = {
            f.can_id: Hit(request_id=request, response_id=f.can_id, target=f.can_id & 0xFF)
            for f in await self._send(frames)
            if not f.extended and f.data[:1] == bytes([request & 0xFF]) and is_answer(f.data, 1)
        }
        return list(found.values())
