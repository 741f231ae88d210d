"""Sockets of the node. Nothing leaves the machine unless the configuration names an address that does."""

from __future__ import annotations

import ipaddress
import socket

from gateway.errors import TransportError

LOOPBACK_BROADCAST = "127.255.255.255"
LIMITED_BROADCAST = "255.255.255.255"
BACKLOG = 128


def _family(host: str) -> socket.AddressFamily:
    try:
        return socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError as error:
        raise TransportError(f"{host!r} is no IP address - at $.diagnostics.doip.host") from error


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket.

    Raises:
        TransportError: the address cannot be bound.
    """
    sock = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise TransportError(f"DoIP cannot listen on {host} port {port}: {error.strerror or error}") from error
    return sock


def open_datagrams(host: str, port: int, announce_address: str) -> list[socket.socket]:
    """UDP sockets: the first for everything, the others hear broadcasts that a specific address would not.

    Raises:
        TransportError: the first cannot be bound.
    """
    sockets = [_datagram(host, port)]
    address = ipaddress.ip_address(host)
    if address.version == 4 and not address.is_unspecified:
        for heard in {LOOPBACK_BROADCAST if address.is_loopback else LIMITED_BROADCAST, announce_address} - {""}:
            try:
                sockets.append(_datagram(heard, port))
            except TransportError:
                continue  # no broadcast address of this machine: nothing is to be heard there
    return sockets


def _datagram(host: str, port: int) -> socket.socket:
    sock = socket.socket(_family(host), socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a tester on this machine listens there too
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setblocking(False)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise TransportError(f"DoIP cannot bind UDP {host} port {port}: {error.strerror or error}") from error
    return sock


def announcement_target(host: str, announce_address: str, port: int) -> tuple[str, int]:
    """Where announcements go: as configured, else to this machine only."""
    default = "::1" if _family(host) == socket.AF_INET6 else LOOPBACK_BROADCAST
    return announce_address or default, port
