"""What an ISO 15765-2 conversation is: addresses, settings, errors. No I/O."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gateway.can.link import CanId
from gateway.errors import PeerError, TransportError


class Addressing(StrEnum):
    """ISO 15765-2 addressing formats."""

    NORMAL = "normal"  # the identifiers say it all; 11 or 29 bit
    NORMAL_FIXED = "normal_fixed"  # 29 bit, 18DA<ta><sa>
    EXTENDED = "extended"  # the target's address is the first data byte
    MIXED = "mixed"  # an address extension is the first data byte; 11 bit, or 29 bit 18CE<ta><sa>


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Both directions of one conversation, seen from us. Build 29-bit fixed ones with ``fixed``.

    ``tx_extension``/``rx_extension`` are the first data byte we send and expect (N_TA or N_AE); None in formats
    without one.
    """

    tx_id: int
    rx_id: int
    extended_id: bool = False  # 29-bit identifiers
    addressing: Addressing = Addressing.NORMAL
    tx_extension: int | None = None
    rx_extension: int | None = None

    @property
    def hears(self) -> CanId:
        """What a link must let through."""
        return self.rx_id, self.extended_id

    def reversed(self) -> Address:
        """The same conversation seen from the other side."""
        return Address(
            tx_id=self.rx_id, rx_id=self.tx_id, extended_id=self.extended_id, addressing=self.addressing,
            tx_extension=self.rx_extension, rx_extension=self.tx_extension,
        )  # fmt: skip


def fixed(target: int, source: int, *, functional: bool = False, extension: int | None = None) -> Address:
    """29-bit fixed addressing: 18DA (18DB functional), or 18CE (18CD) with an address extension (mixed)."""
    kind = (0x18DB if functional else 0x18DA) if extension is None else (0x18CD if functional else 0x18CE)
    return Address(
        tx_id=kind << 16 | target << 8 | source,
        rx_id=(0x18DA if extension is None else 0x18CE) << 16 | source << 8 | target,
        extended_id=True,
        addressing=Addressing.NORMAL_FIXED if extension is None else Addressing.MIXED,
        tx_extension=extension,
        rx_extension=extension,
    )


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How we speak. Times are those of ISO 15765-2; the defaults are the standard's."""

    block_size: int = 16  # what we ask of senders; 0 (no limit) overruns a default socket buffer, see ADR
    st_min: int = 0  # the raw STmin byte we ask of senders
    tx_dl: int = 8  # payload of our longest frame: 8, or 12..64 with FD
    brs: bool = True  # bit-rate switch in FD frames
    padding: int | None = 0xCC  # None: frames as short as they can be
    max_message_bytes: int = 4095  # longer messages are refused with FC.OVFLW; up to 2**32 - 1 on request
    max_wait_frames: int = 10  # N_WFTmax: FC.WAIT accepted in a row
    n_as_ms: int = 1000
    n_bs_ms: int = 1000
    n_cr_ms: int = 1000
    override_st_min_us: int | None = None  # send consecutive frames at this distance whatever the receiver asks


class IsoTpError(TransportError):
    """A message was not delivered or not received whole. ``reason`` is ISO 15765-2's N_Result, lower case."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"ISO-TP {reason}" + (f": {detail}" if detail else ""))
        self.reason = (
            reason  # timeout_a, timeout_bs, timeout_cr, wrong_sn, invalid_fs, unexp_pdu, wft_ovrn, buffer_ovflw
        )


class OversizeError(PeerError):
    """The other side announced, or we were asked to send, more than can be."""
