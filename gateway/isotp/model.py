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

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        highest = 0x1FFFFFFF if self.extended_id else 0x7FF
        for identifier in (self.tx_id, self.rx_id):
            if not 0 <= identifier <= highest:
                raise ValueError(f"identifier {identifier:#x} is not {29 if self.extended_id else 11} bits")
        needs = self.addressing in (Addressing.EXTENDED, Addressing.MIXED)
        for extension in (self.tx_extension, self.rx_extension):
            if (extension is not None) != needs:
                raise ValueError(f"{self.addressing} addressing {'needs both' if needs else 'has no'} extension bytes")
            if extension is not None and not 0 <= extension <= 0xFF:
                raise ValueError(f"extension {extension:#x} is no byte")
        if self.addressing is Addressing.NORMAL_FIXED and not self.extended_id:
            raise ValueError("normal fixed addressing has 29-bit identifiers")

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


#: Payload lengths of the longest frame a sender may use.
TX_DL = (8, 12, 16, 20, 24, 32, 48, 64)


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

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.tx_dl not in TX_DL:
            raise ValueError(f"tx_dl {self.tx_dl}: must be one of {', '.join(map(str, TX_DL))}")
        for name in ("block_size", "st_min", "padding"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 0xFF:
                raise ValueError(f"{name} {value} is no byte")
        if not 1 <= self.max_message_bytes <= 0xFFFFFFFF:
            raise ValueError(f"max_message_bytes {self.max_message_bytes}: must be between 1 and {0xFFFFFFFF}")
        if self.max_wait_frames < 0 or (self.override_st_min_us or 0) < 0:
            raise ValueError("max_wait_frames and override_st_min_us must not be negative")
        if min(self.n_as_ms, self.n_bs_ms, self.n_cr_ms) <= 0:
            raise ValueError("n_as_ms, n_bs_ms and n_cr_ms must be positive")


class IsoTpError(TransportError):
    """A message was not delivered or not received whole. ``reason`` is ISO 15765-2's N_Result, lower case."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"ISO-TP {reason}" + (f": {detail}" if detail else ""))
        self.reason = (
            reason  # timeout_a, timeout_bs, timeout_cr, wrong_sn, invalid_fs, unexp_pdu, wft_ovrn, buffer_ovflw
        )


class OversizeError(IsoTpError, PeerError):
    """We were asked to send, or the other side announced, more than can be (``buffer_ovflw``)."""

    def __init__(self, length_bytes: int, limit_bytes: int) -> None:
        super().__init__("buffer_ovflw", f"{length_bytes} bytes are more than {limit_bytes}")
        self.length_bytes, self.limit_bytes = length_bytes, limit_bytes
