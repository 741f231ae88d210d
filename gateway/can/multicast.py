"""python-can's ``udp_multicast`` as a source: CAN between processes of one machine without any CAN hardware.

The datagrams are those of python-can 4 (a MessagePack map per frame), so that its ``Bus`` may send to us. Unlike its
receiver, ours asks for a large buffer, counts what the kernel dropped, reads many datagrams per call, and takes only
its own group's frames where several groups share a port.

For benches and demonstrations: anyone who may send to the group is believed. Senders of ours use a hop limit of 0, with
which no datagram leaves the machine.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Sequence

import msgspec
import numpy as np

from dbc.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE, FrameBatch
from gateway.can import messages
from gateway.can.config import BusConfig
from gateway.can.merge import merge_by_time
from gateway.can.messages import DropCounter, MessageBuffers
from gateway.can.model import BusCounters, Filters, LinkState, SourceError
from gateway.can.monitor import PERIOD_NS, BusMonitor
from gateway.can.ports import Poller
from gateway.wire.samples import Event

DEFAULT_PORT = 43113
ROW_BYTES = 512  # python-can's datagram of a 64-byte frame has 240
PER_CALL = 256


class Datagram(msgspec.Struct, frozen=True):
    """What python-can sends for one frame; its own timestamp and channel are not used."""

    arbitration_id: int
    is_extended_id: bool = True
    is_remote_frame: bool = False
    is_error_frame: bool = False
    dlc: int | None = None
    data: bytes | None = None
    is_fd: bool = False
    bitrate_switch: bool = False
    error_state_indicator: bool = False


_decoder = msgspec.msgpack.Decoder(Datagram)

Row = tuple[int, int, int, bytes]  # identifier, flags, length, payload


def parse_datagram(content: bytes | memoryview) -> Row | None:
    """The frame in a datagram, or None for anything that is no valid frame. Any bytes are taken."""
    try:
        frame = _decoder.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return None
    payload = frame.data or b""
    if not 0 <= frame.arbitration_id <= (0x1FFFFFFF if frame.is_extended_id or frame.is_error_frame else 0x7FF):
        return None
    if frame.is_remote_frame:
        length = frame.dlc or 0
        return (frame.arbitration_id, _flags(frame), length, b"") if 0 <= length <= 8 and not payload else None
    if len(payload) > (64 if frame.is_fd else 8):
        return None
    return frame.arbitration_id, _flags(frame), len(payload), payload


def _flags(frame: Datagram) -> int:
    flags = EXTENDED if frame.is_extended_id and not frame.is_error_frame else 0
    if frame.is_remote_frame:
        flags |= REMOTE
    if frame.is_error_frame:
        flags |= ERROR
    if frame.is_fd:
        flags |= FD | (BRS if frame.bitrate_switch else 0) | (ESI if frame.error_state_indicator else 0)
    return flags


def parse_channel(channel: str) -> tuple[str, int]:
    """``GROUP``, ``GROUP:PORT`` or ``[GROUP]:PORT`` as group and port.

    Raises:
        ValueError: no multicast address, or no port number.
    """
    group, port = channel, ""
    if channel.startswith("["):
        group, _, port = channel[1:].partition("]")
        port = port.removeprefix(":")
    elif channel.count(":") == 1:
        group, _, port = channel.partition(":")
    number = DEFAULT_PORT if not port else int(port) if port.isascii() and port.isdigit() else 0
    if not 0 < number < 65536:
        raise ValueError(f"port {port!r} is no number from 1 to 65535")
    if not ipaddress.ip_address(group).is_multicast:
        raise ValueError(f"{group} is not a multicast address")
    return group, number


def open_group(group: str, port: int, receive_buffer_bytes: int) -> tuple[socket.socket, int]:
    """A socket that hears the group on the default interface and on loopback, and the buffer granted.

    Raises:
        OSError: the group can be joined on neither.
    """
    address = ipaddress.ip_address(group)
    sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # python-can's sockets on the port have it
        granted = messages.prepare(sock, receive_buffer_bytes)
        sock.bind((group, port))  # the group, not any address: other groups on the port are other buses
        failures = []
        for where in ("0.0.0.0", "127.0.0.1"):
            try:
                if address.version == 4:
                    request = address.packed + socket.inet_aton(where)
                    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
                else:
                    index = 0 if where == "0.0.0.0" else socket.if_nametoindex("lo")
                    request = address.packed + struct.pack("=I", index)
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
            except OSError as error:
                failures.append(error)
        if len(failures) == 2:
            raise failures[0]
    except OSError:
        sock.close()
        raise
    return sock, granted


class _Group:
    def __init__(self, config: BusConfig) -> None:
        self.config = config
        self.monitor = BusMonitor(config.name)
        self.socket: socket.socket | None = None
        self.drops = DropCounter()
        self.granted_bytes: int | None = None
        self.read = self.malformed = self.last_frame_ns = 0

    def ask_drops(self) -> int:
        counter = None if self.socket is None else messages.current_drops(self.socket)
        return 0 if counter is None else self.drops.update(counter)


class MulticastPort:
    """Any number of groups, each one bus."""

    def __init__(self, configs: Sequence[BusConfig], *, max_batch: int = 2000) -> None:
        """Nothing is opened yet.

        Raises:
            SourceError: a channel is no multicast address.
        """
        self._groups = [_Group(config) for config in configs]
        self._addresses = []
        for config in configs:
            try:
                self._addresses.append(parse_channel(config.channel))
            except ValueError as error:
                raise SourceError(config.name, f"channel {config.channel!r}: {error}") from error
        self._buffers = MessageBuffers(min(max_batch, 1024), ROW_BYTES)
        self._poller: Poller | None = None
        self._first = 0
        self._more = False
        self._retell_ns: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Bus names in the order of the configuration."""
        return tuple(group.config.name for group in self._groups)

    @property
    def has_more(self) -> bool:
        """The last ``collect`` stopped at its limit."""
        return self._more

    @property
    def ended(self) -> bool:
        """Never."""
        return False

    def open(self, poller: Poller) -> None:
        """Join the groups.

        Raises:
            SourceError: a group cannot be joined here.
        """
        self._poller = poller
        for group, (address, port) in zip(self._groups, self._addresses, strict=True):
            try:
                group.socket, group.granted_bytes = open_group(address, port, group.config.receive_buffer_bytes)
            except OSError as error:
                raise SourceError(group.config.name, f"cannot join {address}: {error.strerror or error}") from error
            poller.add(group.socket.fileno())
            group.monitor.link_up(time.time_ns(), f"group {address} port {port}")

    def collect(self, limit: int, monotonic_ns: int, utc_ns: int) -> FrameBatch:
        """Read what is queued, a group at a time in turn."""
        self._buffers.clear()
        limit = min(limit, self._buffers.rows)
        count = len(self._groups)
        waiting = [(self._first + i) % count for i in range(count)]
        self._first = (self._first + 1) % count
        owners: list[int] = []
        while waiting and self._buffers.used < limit:
            full = []
            for i in waiting:
                ask = min(PER_CALL, limit - self._buffers.used)
                got = self._receive(self._groups[i], ask, utc_ns)
                owners += [i] * got
                if got == ask:
                    full.append(i)
            waiting = full
        self._more = bool(waiting)
        batch = merge_by_time(self._parse(owners, utc_ns)) if owners else FrameBatch.empty()
        for group in self._groups:
            group.monitor.flush(utc_ns)
        self._retell_ns = monotonic_ns + PERIOD_NS if any(g.monitor.pending for g in self._groups) else None
        return batch

    def next_due_ns(self) -> int | None:
        """When something counted is to be told."""
        return self._retell_ns

    def take_events(self) -> list[Event]:
        """Events of all groups since the last call."""
        return [event for group in self._groups for event in group.monitor.take_events()]

    def statistics(self) -> list[BusCounters]:
        """Counters, with the drops of this very moment."""
        return [self._counters(group) for group in self._groups]

    def set_filters(self, filters: Filters | None) -> None:
        """Nothing: the kernel cannot filter these."""

    def close(self) -> None:
        """Leave the groups; idempotent."""
        now_ns = time.time_ns()
        for group in self._groups:
            self._note_drops(group, 0, now_ns)
            if group.socket is not None:
                if self._poller is not None:
                    self._poller.remove(group.socket.fileno())
                group.socket.close()
                group.socket = None
            group.monitor.flush_all(now_ns)
            group.monitor.end(now_ns, LinkState.STOPPED, "closed")

    # --- inside ---

    def _receive(self, group: _Group, ask: int, utc_ns: int) -> int:
        if group.socket is None:
            return 0
        try:
            return self._buffers.receive(group.socket.fileno(), ask)
        except OSError as error:
            group.monitor.trouble(utc_ns, f"receive: {error.strerror}")
            return 0

    def _parse(self, owners: list[int], utc_ns: int) -> FrameBatch:
        """The frames in the used rows; what is none is counted by its group."""
        buffers = self._buffers
        stamps, drops = buffers.timestamps_ns(utc_ns), buffers.drops()
        batch = FrameBatch.empty(len(owners))
        content = buffers.payload.data.cast("B")
        lengths = buffers.lengths[: buffers.used].tolist()
        truncated = (buffers.message_flags[: buffers.used] & socket.MSG_TRUNC) != 0
        keep = 0
        for row, (owner, length) in enumerate(zip(owners, lengths, strict=True)):
            at = row * ROW_BYTES
            frame = None if truncated[row] else parse_datagram(content[at : at + length])
            if frame is None or (frame[1] & FD and not self._groups[owner].config.fd):
                self._groups[owner].malformed += frame is None
                continue
            batch.can_id[keep], batch.flags[keep], batch.length[keep], payload = frame
            if payload:
                batch.data[keep, : len(payload)] = np.frombuffer(payload, np.uint8)
            batch.bus[keep] = owner
            batch.timestamp_ns[keep] = stamps[row]
            keep += 1
        batch = batch.take(slice(0, keep))
        rows_of = np.array(owners)
        for owner in set(owners):
            self._account(owner, batch, int(drops[rows_of == owner][-1]), utc_ns)
        return batch

    def _account(self, owner: int, batch: FrameBatch, drops: int, utc_ns: int) -> None:
        group = self._groups[owner]
        rows = np.flatnonzero(batch.bus == owner)
        if len(rows):
            group.read += len(rows)
            group.last_frame_ns = int(batch.timestamp_ns[rows[-1]])
            errors = rows[(batch.flags[rows] & ERROR) != 0]
            if len(errors):
                group.monitor.error_frames_seen(batch.can_id[errors], batch.data[errors], batch.timestamp_ns[errors])
            if not len(errors) or errors[-1] != rows[-1]:
                group.monitor.frames_seen(group.last_frame_ns)
        self._note_drops(group, drops, utc_ns)

    def _note_drops(self, group: _Group, counter: int, utc_ns: int) -> None:
        lost = (group.drops.update(counter) if counter else 0) + group.ask_drops()
        if lost:
            group.monitor.frames_lost(lost, utc_ns)

    def _counters(self, group: _Group) -> BusCounters:
        self._note_drops(group, 0, time.time_ns())
        return BusCounters(
            bus=group.config.name,
            received=group.read + group.drops.total,
            read=group.read,
            kernel_dropped=group.drops.total,
            error_frames=group.monitor.error_frames,
            malformed=group.malformed,
            state=group.monitor.state,
            detail=group.monitor.detail,
            last_frame_ns=group.last_frame_ns,
            receive_buffer_bytes=group.granted_bytes,
        )
