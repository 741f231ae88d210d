"""The kernel's ISO-TP (``CAN_ISOTP`` sockets, Linux 5.10 and later) behind the same endpoint as our engine.

The kernel does the timing, so a loaded gateway keeps STmin and N_Br. What it does differently, and cannot be told
otherwise: N_As, N_Bs and N_Cr are one second; FC.WAIT may go on for ever; a transmission whose caller was cancelled is
finished; a message that breaks off in favour of a new one is dropped without a word. ``can_serve`` says which
settings it keeps. Sending returns when the last frame is out, as the kernel tells by poll(2) since Linux 6.3 and in
the long-term kernels of that time; before, when the message has been taken.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct

from gateway.can.link import CanLink
from gateway.errors import TransportError
from gateway.isotp.endpoint import BUSY_RETRY_S, Sink
from gateway.isotp.framing import Framing
from gateway.isotp.model import Address, IsoTpError, OversizeError, Settings
from gateway.uds.channel import ChannelClosedError

# linux/can/isotp.h; not in the socket module.
SOL_CAN_ISOTP = 106
OPTS, RECV_FC, TX_STMIN, LL_OPTS = 1, 2, 3, 5
EXTEND_ADDR, TX_PADDING, FORCE_TXSTMIN, RX_EXT_ADDR = 0x002, 0x004, 0x080, 0x200
FRAME_TXTIME_ZERO = 0xFFFFFFFF
CANFD_MTU, CANFD_BRS = 72, 1
CAN_EFF_FLAG = 0x80000000

#: What every kernel with ISO-TP can carry.
MAX_MESSAGE_BYTES = 4095
RECEIVE_BYTES = 1 << 16
MESSAGES_PER_WAKE = 16

_DEFAULTS = Settings()
_SENDING = {
    errno.ECOMM: ("timeout_bs", "no flow control"),
    errno.EMSGSIZE: ("buffer_ovflw", "the receiver has no room for the message"),
}
_RECEIVING = {
    errno.ETIMEDOUT: ("timeout_cr", "no consecutive frame"),
    errno.EILSEQ: ("wrong_sn", "wrong sequence number"),
}

_is_present: bool | None = None


def has_kernel_isotp() -> bool:
    """Whether this kernel has ISO-TP sockets; tried once (the first socket loads the module)."""
    global _is_present
    if _is_present is None:
        try:
            socket.socket(socket.PF_CAN, socket.SOCK_DGRAM, socket.CAN_ISOTP).close()
        except (OSError, AttributeError):
            _is_present = False
        else:
            _is_present = True
    return _is_present


def can_serve(settings: Settings) -> bool:
    """Whether the kernel keeps these settings as our engine would."""
    return settings.max_message_bytes == MAX_MESSAGE_BYTES and all(
        getattr(settings, name) == getattr(_DEFAULTS, name) for name in ("n_as_ms", "n_bs_ms", "n_cr_ms")
    )


def open_socket(channel: str, address: Address, settings: Settings) -> socket.socket:
    """A bound, non-blocking socket.

    Raises:
        OSError: the kernel refuses.
    """
    flags, tx_extension, rx_extension = 0, 0, 0
    if address.tx_extension is not None and address.rx_extension is not None:
        flags |= EXTEND_ADDR | RX_EXT_ADDR
        tx_extension, rx_extension = address.tx_extension, address.rx_extension
    if settings.padding is not None:
        flags |= TX_PADDING
    if settings.override_st_min_us is not None:
        flags |= FORCE_TXSTMIN
    sock = socket.socket(socket.PF_CAN, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.CAN_ISOTP)
    try:
        sock.setblocking(False)
        options = struct.pack("=IIBBBB", flags, FRAME_TXTIME_ZERO, tx_extension, settings.padding or 0, 0, rx_extension)
        sock.setsockopt(SOL_CAN_ISOTP, OPTS, options)
        flow_control = struct.pack("=BBB", settings.block_size, settings.st_min, 0)
        sock.setsockopt(SOL_CAN_ISOTP, RECV_FC, flow_control)
        if settings.override_st_min_us is not None:
            sock.setsockopt(SOL_CAN_ISOTP, TX_STMIN, struct.pack("=I", settings.override_st_min_us * 1000))
        if settings.tx_dl > 8:
            link_layer = struct.pack("=BBB", CANFD_MTU, settings.tx_dl, CANFD_BRS if settings.brs else 0)
            sock.setsockopt(SOL_CAN_ISOTP, LL_OPTS, link_layer)
        flag = CAN_EFF_FLAG if address.extended_id else 0
        sock.bind((channel, address.rx_id | flag, address.tx_id | flag))
    except OSError:
        sock.close()
        raise
    return sock


class KernelEndpoint:
    """One address on a SocketCAN interface; a ``registry.SharedEndpoint``."""

    def __init__(self, link: CanLink, address: Address, settings: Settings) -> None:
        """Open the socket on the interface called as the link.

        Raises:
            TransportError: the kernel refuses.
        """
        self._name, self._settings = link.name, settings
        self._single_bytes = Framing(address, settings).single_bytes
        self._loop = asyncio.get_running_loop()
        self._sinks: tuple[Sink, ...] = ()
        self._sending = asyncio.Lock()
        self._writable: asyncio.Future[None] | None = None
        self._failure: IsoTpError | None = None  # of the transmission under way
        self._closed = False
        try:
            self._socket = open_socket(link.name, address, settings)
        except OSError as error:
            raise TransportError(f"{link.name}: ISO-TP: {error.strerror or error}") from error
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def attach(self, sink: Sink) -> None:
        """See ``SharedEndpoint``."""
        self._sinks = (*self._sinks, sink)

    def detach(self, sink: Sink) -> bool:
        """See ``SharedEndpoint``."""
        self._sinks = tuple(s for s in self._sinks if s is not sink)
        return not self._sinks

    def close(self) -> None:
        """See ``SharedEndpoint``."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._wake()
        self._tell(IsoTpError("link", "the bus was closed"))
        # close(2) waits for a transmission under way, up to its time-out.
        self._loop.run_in_executor(None, self._socket.close)

    async def send(self, pdu: bytes) -> None:
        """See ``SharedEndpoint``."""
        if not pdu:
            raise ValueError("an empty message cannot be sent")
        if len(pdu) > self._settings.max_message_bytes:
            raise OversizeError(len(pdu), self._settings.max_message_bytes)
        async with self._sending:
            give_up_s = self._loop.time() + self._settings.n_as_ms / 1000
            while True:
                if self._closed:
                    raise ChannelClosedError("the channel is closed")
                self._failure = None
                try:
                    self._socket.send(pdu)
                    break
                except BlockingIOError:  # one whose caller was cancelled is still under way
                    await self._until_idle()
                except OSError as error:
                    if error.errno == errno.ENOBUFS and self._loop.time() < give_up_s:
                        await asyncio.sleep(BUSY_RETRY_S)
                        continue
                    if error.errno not in _SENDING and error.errno not in _RECEIVING:
                        raise IsoTpError("link", f"{self._name}: {error.strerror or error}") from error
                    self._blame(error.errno)  # of the message before, or of a reception
            if len(pdu) > self._single_bytes:
                await self._until_idle()
                if self._closed:
                    raise ChannelClosedError("the channel was closed")
            if self._failure is not None:
                raise self._failure

    # --- inside ---

    async def _until_idle(self) -> None:
        self._writable = self._loop.create_future()
        self._loop.add_writer(self._socket.fileno(), self._wake)
        try:
            await self._writable
        finally:
            self._writable = None
            if not self._closed:
                self._loop.remove_writer(self._socket.fileno())
                self._blame(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _wake(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _blame(self, number: int) -> None:
        """An error the socket kept: of the transmission under way, or of a reception."""
        if number in _RECEIVING:
            self._tell(IsoTpError(*_RECEIVING[number]))
        elif number:
            reason, detail = _SENDING.get(number, ("link", f"{self._name}: errno {number}"))
            self._failure = IsoTpError(reason, detail)

    def _tell(self, event: bytes | IsoTpError) -> None:
        for sink in self._sinks:
            sink(event)

    def _readable(self) -> None:
        for _ in range(MESSAGES_PER_WAKE):
            if self._closed:
                return
            try:
                message = self._socket.recv(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._blame(error.errno or errno.EIO)
                return
            self._tell(message)
