"""Whole downloads and uploads: blocks as long as the ECU takes, counted, repeated where they may be, resumable.

A block whose answer was lost is sent again with the same counter: an ECU that has it already says yes without writing
(ISO 14229-1, 0x36). What this does not do: sessions, unlocking, erasing, checking; those are the flash plan's.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.errors import TransportError
from gateway.uds.client import UdsClient
from gateway.uds.errors import MalformedAnswer, NegativeResponse, NoAnswer, TransferError, UnexpectedAnswer
from gateway.uds.names import Nrc

#: Told after each block: bytes done, bytes in all.
Progress = Callable[[int, int], None]

_OVERHEAD_BYTES = 2  # SID and block counter


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """Where a transfer that the ECU still has open goes on: the offset, and the counter of the block there."""

    offset: int
    counter: int
    max_block_bytes: int


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer that went through. ``record``: what the ECU said to the exit."""

    blocks: int
    repeated: int
    record: bytes


class TransferBroken(TransferError):
    """A download stopped; ``resume`` tells where it can go on as long as the ECU keeps it open."""

    def __init__(self, message: str, resume: Resume) -> None:
        super().__init__(message, resume.offset)
        self.resume = resume


async def download(
    client: UdsClient,
    address: int,
    content: bytes,
    *,
    on_progress: Progress | None = None,
    resume: Resume | None = None,
    retries: int = 3,
    max_block_bytes: int | None = None,
    address_bytes: int = 4,
    size_bytes: int = 4,
    data_format: int = 0,
    exit_record: bytes = b"",
) -> Finished:
    """Request, transfer and exit.

    Args:
        client: in a session and unlocked as the ECU wants.
        address: where ``content`` goes.
        content: all of it, also when resuming.
        on_progress: told after each block.
        resume: from ``TransferBroken``; no new request is made then.
        retries: of one block.
        max_block_bytes: a limit of ours besides the ECU's.
        address_bytes, size_bytes, data_format: see ``UdsClient.request_download``.
        exit_record: what goes with the exit.

    Raises:
        TransferBroken: a block did not get through; all before it did.
        NegativeResponse, TransportError: request or exit were refused or lost.
    """
    if resume is None:
        accepted = await client.request_download(
            address, len(content), address_bytes=address_bytes, size_bytes=size_bytes, data_format=data_format
        )
        limit = min(accepted.max_block_bytes, client.max_pdu_bytes, max_block_bytes or accepted.max_block_bytes)
        if limit <= _OVERHEAD_BYTES:
            raise TransferError(f"blocks of {limit} bytes carry no data", 0)
        resume = Resume(offset=0, counter=1, max_block_bytes=limit)
    sender = _Sender(client, retries)
    payload_bytes = resume.max_block_bytes - _OVERHEAD_BYTES
    while resume.offset < len(content):
        block = content[resume.offset : resume.offset + payload_bytes]
        await sender.send(resume, block)
        resume = msgspec.structs.replace(resume, offset=resume.offset + len(block), counter=(resume.counter + 1) & 0xFF)
        if on_progress is not None:
            on_progress(resume.offset, len(content))
    record = await client.transfer_exit(exit_record)
    return Finished(blocks=sender.blocks, repeated=sender.repeated, record=record)


class _Sender:
    """Sends blocks, each until it is acknowledged."""

    def __init__(self, client: UdsClient, retries: int) -> None:
        self._client, self._retries = client, retries
        self.blocks = self.repeated = 0

    async def send(self, at: Resume, block: bytes) -> None:
        for attempt in range(self._retries + 1):
            try:
                await self._client.transfer(at.counter, block)
            except NegativeResponse as refusal:
                if refusal.nrc != Nrc.WRONG_BLOCK_COUNTER or attempt == self._retries:
                    raise TransferBroken(str(refusal), at) from refusal
            except (TransportError, UnexpectedAnswer, MalformedAnswer) as error:
                if attempt == self._retries:
                    raise TransferBroken(str(error), at) from error
            else:
                self.blocks += 1
                return
            self.repeated += 1


async def upload(
    client: UdsClient,
    address: int,
    size: int,
    *,
    on_progress: Progress | None = None,
    retries: int = 3,
    address_bytes: int = 4,
    size_bytes: int = 4,
    data_format: int = 0,
) -> bytes:
    """Read memory by blocks: request, transfers and exit.

    Raises:
        TransferError: a block did not come, or the ECU sent more or less than asked for.
        NegativeResponse, TransportError: request or exit were refused or lost.
    """
    await client.request_upload(
        address, size, address_bytes=address_bytes, size_bytes=size_bytes, data_format=data_format
    )
    content, counter = bytearray(), 1
    while len(content) < size:
        block = await _fetch(client, counter, len(content), retries)
        if not block or len(content) + len(block) > size:
            raise TransferError(f"a block of {len(block)} bytes where {size - len(content)} are left", len(content))
        content += block
        counter = (counter + 1) & 0xFF
        if on_progress is not None:
            on_progress(len(content), size)
    await client.transfer_exit()
    return bytes(content)


async def _fetch(client: UdsClient, counter: int, offset: int, retries: int) -> bytes:
    for _ in range(retries):
        try:
            return await client.transfer(counter)
        except (NoAnswer, UnexpectedAnswer):
            continue
    try:
        return await client.transfer(counter)
    except (TransportError, NegativeResponse, UnexpectedAnswer) as error:
        raise TransferError(str(error), offset) from error
