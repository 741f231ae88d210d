"""ISO-TP for one ECU: can-isotp's thread-free state machine, or the kernel's socket where there is one."""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

import isotp

from simulator.ecu.description import TransportDescription
from simulator.ecu.links import Frame
from simulator.ports import PortError

#: (request, functional)
Receiver = Callable[[bytes, bool], None]
SendFrame = Callable[[Frame], None]

# linux/can/isotp.h
SOL_CAN_ISOTP, ISOTP_OPTS, ISOTP_RECV_FC, ISOTP_LL_OPTS = 106, 1, 2, 5
OPT_EXTEND_ADDR, OPT_TX_PADDING, OPT_RX_EXT_ADDR = 0x002, 0x004, 0x200
EFF_FLAG = 0x80000000


def identifiers(transport: TransportDescription) -> tuple[int, int, bool]:
    """Request and response identifier, and whether they have 29 bits."""
    if transport.kind == "normal_fixed":
        target, tester = transport.target_address, transport.tester_address
        return 0x18DA0000 | target << 8 | tester, 0x18DA0000 | tester << 8 | target, True
    extended = max(transport.request_id, transport.response_id) > 0x7FF
    return transport.request_id, transport.response_id, extended


def listened(transport: TransportDescription) -> list[tuple[int, bool]]:
    """All identifiers the ECU hears."""
    request, _, extended = identifiers(transport)
    out = [(request, extended)]
    if transport.functional_id:
        out.append((transport.functional_id, transport.functional_id > 0x7FF))
    return out


def single_frame(data: bytes) -> bytes | None:
    """The payload of a single frame; None for anything else (functional requests are single frames only)."""
    if not data:
        return None
    if 1 <= data[0] <= 7 and len(data) <= 8:
        return data[1 : 1 + data[0]] if len(data) > data[0] else None
    if data[0] == 0 and len(data) > 8 and 8 <= data[1] <= len(data) - 2:
        return data[2 : 2 + data[1]]
    return None


class EcuTransport(Protocol):
    """Carries messages of one ECU."""

    errors: int

    @property
    def busy(self) -> bool:
        """Whether a long request is arriving."""

    def hear(self, frame: Frame) -> None:
        """A frame with one of the identifiers listened to."""

    def send(self, pdu: bytes) -> None:
        """Send an answer; queued behind what is being sent."""

    def poll(self) -> None:
        """Timers; call when ``next_deadline_s`` is over or the socket is readable."""

    def next_deadline_s(self, now_s: float) -> float | None:
        """When ``poll`` is needed."""

    def fileno(self) -> int:
        """A socket to watch; -1: none."""

    def clear(self) -> None:
        """Power is lost: forget what is being sent and received."""

    def close(self) -> None:
        """Release it."""


class LibraryTransport:
    """can-isotp's ``TransportLayerLogic``, driven from outside."""

    def __init__(self, transport: TransportDescription, send: SendFrame, receiver: Receiver) -> None:
        self._send, self._receiver = send, receiver
        self._heard: deque[isotp.CanMessage] = deque()
        self.request_id, self.response_id, self.extended = identifiers(transport)
        self._functional_id = transport.functional_id
        self.errors = 0
        params: dict[str, object] = {
            "stmin": transport.separation_ms,
            "blocksize": transport.block_size,
            "can_fd": transport.fd,
            "bitrate_switch": transport.fd,
            "tx_data_length": transport.frame_bytes,
            "max_frame_size": transport.max_length,
            "wftmax": 10,
        }
        if transport.padding is not None:
            params |= {"tx_padding": transport.padding, "tx_data_min_length": 8}
        self._layer = isotp.TransportLayerLogic(
            rxfn=self._next, txfn=self._out, address=_address(transport), params=params, error_handler=self._error
        )

    def set_padding(self, padding: int | None) -> None:
        """Switch padding of answers."""
        self._layer.params.tx_padding = padding
        self._layer.params.tx_data_min_length = None if padding is None else 8

    def _next(self, timeout: float) -> isotp.CanMessage | None:
        return self._heard.popleft() if self._heard else None

    def _out(self, message: isotp.CanMessage) -> None:
        self._send(
            Frame(message.arbitration_id, bool(message.is_extended_id), bytes(message.data), bool(message.is_fd))
        )

    def _error(self, error: Exception) -> None:
        self.errors += 1

    @property
    def busy(self) -> bool:
        """See ``EcuTransport``."""
        return bool(self._layer.is_rx_active())

    def hear(self, frame: Frame) -> None:
        """See ``EcuTransport``."""
        if self._functional_id and frame.can_id == self._functional_id:
            payload = single_frame(frame.data)
            if payload is not None:
                self._receiver(payload, True)
            return
        self._heard.append(
            isotp.CanMessage(
                arbitration_id=frame.can_id,
                dlc=len(frame.data),
                data=frame.data,
                extended_id=frame.extended,
                is_fd=frame.fd,
            )
        )
        self.poll()

    def send(self, pdu: bytes) -> None:
        """See ``EcuTransport``."""
        self._layer.send(pdu)
        self.poll()

    def poll(self) -> None:
        """See ``EcuTransport``."""
        self._layer.process(0.0)
        while self._layer.available():
            request = self._layer.recv()
            if request is not None:
                self._receiver(bytes(request), False)

    def next_deadline_s(self, now_s: float) -> float | None:
        """See ``EcuTransport``."""
        delay_s = self._layer.next_cf_delay()
        if delay_s is not None:
            return now_s + delay_s
        if self._layer.is_rx_active() or self._layer.transmitting():
            return now_s + 0.01  # for its N_Cr and N_Bs timers
        return None

    def fileno(self) -> int:
        """See ``EcuTransport``."""
        return -1

    def clear(self) -> None:
        """See ``EcuTransport``."""
        self._heard.clear()
        self._layer.reset()

    def close(self) -> None:
        """See ``EcuTransport``."""


def _address(transport: TransportDescription) -> isotp.Address:
    request, response, extended = identifiers(transport)
    target, tester = transport.target_address, transport.tester_address
    if transport.kind == "normal_fixed":
        return isotp.Address(isotp.AddressingMode.NormalFixed_29bits, source_address=target, target_address=tester)
    if transport.kind == "extended":
        mode = isotp.AddressingMode.Extended_29bits if extended else isotp.AddressingMode.Extended_11bits
        return isotp.Address(mode, rxid=request, txid=response, source_address=target, target_address=tester)
    mode = isotp.AddressingMode.Normal_29bits if extended else isotp.AddressingMode.Normal_11bits
    return isotp.Address(mode, rxid=request, txid=response)


class KernelTransport:
    """The kernel's ``CAN_ISOTP`` socket; functional requests still come as frames."""

    def __init__(self, channel: str, transport: TransportDescription, receiver: Receiver) -> None:
        """Raises ``PortError`` where the kernel has no ISO-TP."""
        self._receiver = receiver
        self._functional_id = transport.functional_id
        self._waiting: deque[bytes] = deque()
        self.errors = 0
        request, response, extended = identifiers(transport)
        try:
            self._socket = socket.socket(socket.AF_CAN, socket.SOCK_DGRAM, socket.CAN_ISOTP)
        except OSError as error:
            raise PortError(error.errno, f"{channel}: this kernel has no ISO-TP") from error
        flags, address, rx_address = 0, 0, 0
        if transport.padding is not None:
            flags |= OPT_TX_PADDING
        if transport.kind == "extended":
            flags |= OPT_EXTEND_ADDR | OPT_RX_EXT_ADDR
            address, rx_address = transport.tester_address, transport.target_address
        options = struct.pack("=IIBBBB", flags, 0, address, transport.padding or 0, 0, rx_address)
        flag = EFF_FLAG if extended else 0
        try:
            self._socket.setsockopt(SOL_CAN_ISOTP, ISOTP_OPTS, options)
            flow = struct.pack("=BBB", transport.block_size, transport.separation_ms, 0)
            self._socket.setsockopt(SOL_CAN_ISOTP, ISOTP_RECV_FC, flow)
            if transport.fd:
                self._socket.setsockopt(SOL_CAN_ISOTP, ISOTP_LL_OPTS, struct.pack("=BBB", 72, transport.frame_bytes, 1))
            self._socket.setblocking(False)
            self._socket.bind((channel, request | flag, response | flag))
        except OSError as error:
            self._socket.close()
            raise PortError(error.errno, f"{channel}: ISO-TP: {error.strerror}") from error

    @property
    def busy(self) -> bool:
        """See ``EcuTransport``; the kernel does not tell."""
        return False

    def hear(self, frame: Frame) -> None:
        """See ``EcuTransport``."""
        if self._functional_id and frame.can_id == self._functional_id:
            payload = single_frame(frame.data)
            if payload is not None:
                self._receiver(payload, True)

    def send(self, pdu: bytes) -> None:
        """See ``EcuTransport``."""
        self._waiting.append(pdu)
        self.poll()

    def poll(self) -> None:
        """See ``EcuTransport``."""
        while True:
            try:
                request = self._socket.recv(1 << 20)
            except BlockingIOError:
                break
            except OSError:  # a reception that broke off
                self.errors += 1
                break
            self._receiver(request, False)
        while self._waiting:
            try:
                self._socket.send(self._waiting[0])
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                    return
                self.errors += 1
            self._waiting.popleft()

    def next_deadline_s(self, now_s: float) -> float | None:
        """See ``EcuTransport``."""
        return now_s + 0.001 if self._waiting else None

    def fileno(self) -> int:
        """See ``EcuTransport``."""
        return self._socket.fileno()

    def clear(self) -> None:
        """See ``EcuTransport``."""
        self._waiting.clear()

    def close(self) -> None:
        """See ``EcuTransport``."""
        self._socket.close()
