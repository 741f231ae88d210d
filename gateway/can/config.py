"""The configuration of the vehicle's buses. Values only; unknown keys are refused by whoever decodes it."""

from __future__ import annotations

from typing import Literal

import msgspec

MAX_BUSES = 32
#: Interfaces with an adapter of our own; any other name is python-can's.
OUR_INTERFACES = ("socketcan", "udp_multicast", "replay")


class BusConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One bus (``[[buses]]``).

    ``interface`` is ``socketcan``, ``udp_multicast``, ``replay``, or any interface name of python-can.
    ``channel`` is the network interface (``can0``), the multicast group (``239.74.163.2:43113``), the log file, or
    python-can's channel.
    """

    name: str
    interface: str = "socketcan"
    channel: str = ""
    #: Receive CAN FD frames too (SocketCAN, ``udp_multicast``). A python-can adapter is told by its own ``options``.
    fd: bool = True
    #: For python-can adapters that set the bit rate; SocketCAN's is set with ip-link(8) before the gateway starts.
    bitrate_bps: int | None = None
    data_bitrate_bps: int | None = None
    #: What we ask the kernel for; it grants double, or less where net.core.rmem_max is small and we lack CAP_NET_ADMIN.
    receive_buffer_bytes: int = 2 * 1024 * 1024
    #: ``auto``: the kernel passes only identifiers that a scheme needs. ``off``: everything.
    filters: Literal["auto", "off"] = "auto"
    #: Restart a controller after bus-off where its driver does not do so itself (needs CAP_NET_ADMIN). 0: never.
    restart_after_ms: int = 1000
    #: For ``replay``: the bus of the log; empty for the log's only one.
    log_bus: str = ""
    #: Further keyword arguments of python-can's ``Bus``.
    options: dict[str, str | int | float | bool] = {}

    def __post_init__(self) -> None:
        """Refuse values that cannot work; the message names the key."""
        if not self.name or any(c in self.name for c in ". \t\n/"):
            raise ValueError(f"name {self.name!r}: must not be empty or contain dots, slashes or spaces")
        ours = self.interface in OUR_INTERFACES
        if not self.channel and (ours or not self.options):
            raise ValueError(f"channel of bus {self.name!r} is missing")
        if not 0 < self.receive_buffer_bytes <= 256 * 1024 * 1024:
            raise ValueError("receive_buffer_bytes must be between 1 and 268435456")
        if self.restart_after_ms < 0:
            raise ValueError("restart_after_ms must not be negative")


class ReplayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the buses with ``interface = "replay"`` are played (``[replay]``); they share one clock.

    ``speed`` 1.0 is as recorded, 2.0 twice as fast, 0 as fast as the gateway takes them. ``rebase_time`` shifts all
    timestamps so that the recording starts now, or ``begin_ago_s`` earlier: a drive replayed faster than it was driven
    then ends now and not in the future. Without it they stay as recorded.
    """

    speed: float = 1.0
    rebase_time: bool = True
    begin_ago_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a speed that is no speed."""
        if not 0 <= self.speed <= 1e6:
            raise ValueError("speed must be between 0 (as fast as possible) and 1000000")
        if not 0 <= self.begin_ago_s <= 1e9:
            raise ValueError("begin_ago_s must be between 0 and 1000000000")


class ReadConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How batches are gathered (``[read]``)."""

    #: Frames that come within this time travel as one batch.
    tick_ms: float = 30.0
    #: ``receive`` returns an empty batch when nothing came for so long.
    max_wait_ms: float = 1000.0
    #: The largest batch; 500 to 2000 decode fastest.
    max_batch: int = 2000

    def __post_init__(self) -> None:
        """Refuse times and sizes that cannot work."""
        if not 0 <= self.tick_ms <= 1000:
            raise ValueError("tick_ms must be between 0 and 1000")
        if not 1 <= self.max_wait_ms <= 60_000:
            raise ValueError("max_wait_ms must be between 1 and 60000")
        if not 1 <= self.max_batch <= 100_000:
            raise ValueError("max_batch must be between 1 and 100000")
