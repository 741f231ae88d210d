"""From names to a link: which adapter speaks on which bus."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.can.config import BusConfig
from gateway.can.link import CanLink
from gateway.can.link_multicast import MulticastLink
from gateway.can.link_pythoncan import PythonCanLink
from gateway.can.link_socketcan import SocketCanLink
from gateway.errors import TransportError


def open_link(
    interface: str,
    channel: str,
    *,
    fd: bool = True,
    own: bool = False,
    bitrate_bps: int | None = None,
    data_bitrate_bps: int | None = None,
    options: Mapping[str, str | int | float | bool] | None = None,
) -> CanLink:
    """Open a bus for sending and hearing. Call it inside the event loop that will use it.

    Args:
        interface: ``socketcan``, ``udp_multicast``, or any interface name of python-can.
        channel: network interface, ``GROUP[:PORT]``, or python-can's channel.
        fd: use CAN FD where the bus has it (SocketCAN: an MTU of 72). A python-can adapter must also be told, by its
            own ``options`` (usually ``fd``).
        own: hear the link's own frames, too (marked ``is_own``).
        bitrate_bps: for python-can adapters that set it.
        data_bitrate_bps: likewise.
        options: further arguments of python-can's ``Bus``.

    Raises:
        TransportError: it cannot be opened; the message says why.
    """
    if interface == "socketcan":
        return SocketCanLink(channel, fd=fd, own=own)
    if interface == "udp_multicast":
        return MulticastLink(channel, fd=fd, own=own)
    given = dict(options or {})
    if own:
        given.setdefault("receive_own_messages", True)
    try:
        config = BusConfig(
            name="link",
            interface=interface,
            channel=channel,
            bitrate_bps=bitrate_bps,
            data_bitrate_bps=data_bitrate_bps,
            options=given,
        )
    except ValueError as error:
        raise TransportError(f"cannot open {interface} {channel}: {error}") from error
    # python-can's virtual bus carries whatever it is given.
    has_fd = fd and (interface == "virtual" or bool(given.get("fd")))
    return PythonCanLink(config, fd=has_fd, own=own)
