"""Where the vehicle is plugged in, as written on the command line. No I/O.

``[BUS=]INTERFACE:CHANNEL[?key=value&…]``::

    can:vcan0                        SocketCAN (socketcan:vcan0 is the same)
    udp_multicast:239.74.163.7       between processes of one machine
    doip:192.168.10.2:13400?source=0x0E80
    doips:192.168.10.2?ca=ca.pem&certificate=me.pem&key=me.key
    pcan:PCAN_USBBUS1?bitrate=500000 any interface of python-can
    body=can:can1                    the bus the vehicle file calls "body"
"""

from __future__ import annotations

from urllib.parse import parse_qsl

import msgspec

from tester.errors import UsageError

DOIP_PORT, DOIP_TLS_PORT = 13400, 3496
DEFAULT_TESTER = 0x0E80


class CanVia(msgspec.Struct, frozen=True, kw_only=True):
    """A CAN bus. ``bus``: which of the vehicle's buses it is; empty: every one that has no other way."""

    bus: str
    interface: str
    channel: str
    bitrate_bps: int | None = None
    data_bitrate_bps: int | None = None
    fd: bool = True
    kernel: str = "auto"
    options: tuple[tuple[str, str | int | float | bool], ...] = ()

    @property
    def name(self) -> str:
        """As the user wrote it, without options."""
        return f"{'can' if self.interface == 'socketcan' else self.interface}:{self.channel}"


class DoipVia(msgspec.Struct, frozen=True, kw_only=True):
    """A DoIP node."""

    host: str
    port: int
    source: int = DEFAULT_TESTER
    activation: int = 0
    tls: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""
    version: int = 2

    @property
    def name(self) -> str:
        """As the user wrote it, without options."""
        return f"{'doips' if self.tls else 'doip'}:{self.host}:{self.port}"


Via = CanVia | DoipVia


def parse_via(text: str) -> Via:
    """One ``--via``.

    Raises:
        UsageError: it cannot be understood; the message shows the form.
    """
    place, _, query = text.strip().partition("?")
    pairs = parse_qsl(query, keep_blank_values=True) if query else []
    options = dict(pairs)
    bus, equals, rest = place.partition("=")
    if not equals:
        bus, rest = "", place
    interface, colon, channel = rest.partition(":")
    interface = interface.strip().lower()
    if not colon or not interface or not channel.strip():
        raise UsageError(f"--via {text!r}: expected INTERFACE:CHANNEL, e.g. can:vcan0 or doip:192.168.10.2")
    try:
        if interface in ("doip", "doips"):
            if bus:
                raise ValueError("DoIP reaches all buses; name none")
            return _doip(interface == "doips", channel, options)
        return _can(bus, "socketcan" if interface == "can" else interface, channel, options)
    except ValueError as error:
        raise UsageError(f"--via {text!r}: {error}") from error


def _number(options: dict[str, str], key: str, default: int | None, base: int = 0) -> int | None:
    text = options.pop(key, None)
    if text is None:
        return default
    try:
        return int(text, base)
    except ValueError as error:
        raise ValueError(f"{key}={text} is no number") from error


def _flag(options: dict[str, str], key: str, *, default: bool) -> bool:
    text = options.pop(key, None)
    if text is None:
        return default
    if text.lower() in ("", "1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{key}={text} is neither true nor false")


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    host, port = text, ""
    if text.startswith("["):  # IPv6
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, port = text.split(":")
    if not host:
        raise ValueError("no host")
    if not port:
        return host, default
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{port!r} is no port")
    return host, int(port)


def _doip(is_tls: bool, channel: str, options: dict[str, str]) -> DoipVia:
    tls = _flag(options, "tls", default=is_tls)
    host, port = _host_and_port(channel, DOIP_TLS_PORT if tls else DOIP_PORT)
    via = DoipVia(
        host=host, port=port, tls=tls,
        source=_number(options, "source", DEFAULT_TESTER) or 0,
        activation=_number(options, "activation", 0) or 0,
        version=_number(options, "version", 2) or 0,
        ca=options.pop("ca", ""), certificate=options.pop("certificate", ""), key=options.pop("key", ""),
    )  # fmt: skip
    if options:
        raise ValueError(f"unknown option {min(options)!r}; there are source, activation, version, tls, ca, "
                         "certificate, key")  # fmt: skip
    if not 1 <= via.source <= 0xFFFF or not 0 <= via.activation <= 0xFF or via.version not in (2, 3):
        raise ValueError("source is a 16-bit address, activation a byte, version 2 or 3")
    return via


def _value(text: str) -> str | int | float | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (lambda t: int(t, 0), float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _can(bus: str, interface: str, channel: str, options: dict[str, str]) -> CanVia:
    kernel = options.pop("kernel", "auto")
    if kernel not in ("auto", "never", "always"):
        raise ValueError("kernel is auto, never or always")
    fd = _flag(options, "fd", default=True) if interface in ("socketcan", "udp_multicast") else True
    return CanVia(
        bus=bus.strip(), interface=interface, channel=channel.strip(), fd=fd, kernel=kernel,
        bitrate_bps=_number(options, "bitrate", None), data_bitrate_bps=_number(options, "data_bitrate", None),
        options=tuple((key, _value(value)) for key, value in options.items()),
    )  # fmt: skip
