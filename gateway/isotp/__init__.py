"""ISO 15765-2: messages of any length over CAN and CAN FD.

A tester's end of a conversation with one ECU, and the ECU's end of the same on another link::

    link = open_link("socketcan", "vcan0")                       # gateway.can.link_open; MemoryBus().link() in tests
    motor = Address(tx_id=0x7E0, rx_id=0x7E8)                    # or fixed(0x50, 0xF1), or extension bytes
    channel = open_channel(link, motor, Settings(), name="motor")    # a DiagnosticChannel (gateway.uds.channel)
    await channel.send(bytes.fromhex("22F190"))                  # returns when the last frame is on the bus
    async with asyncio.timeout(0.15):
        answer = await channel.receive()                         # waits for ever by itself
    await channel.aclose()

    ecu = open_channel(other_link, motor.reversed(), name="tester")

Functional addressing, both ends::

    everyone = Address(tx_id=0x7DF, rx_id=0x7E8)                 # only where requests go is used
    functional = open_functional(link, everyone, {"motor": (motor, Settings())})
    await functional.send(b"\\x3e\\x80")                           # a single frame, else ValueError
    name, answer = await functional.receive()

    listener = open_functional_listener(other_link, everyone)    # hears single frames on 0x7DF
    request = await listener.receive()

With the kernel's ISO-TP sockets where they are, the same by methods::

    bus = IsoTpBus("socketcan", "vcan0", kernel="auto")          # opens bus.link; bus.open_channel(motor), …

What to rely on: a channel keeps 64 messages that nobody fetched, then drops the oldest and counts it (``dropped``).
Failed receptions are raised by ``receive`` once each, in their place among the messages; ``IsoTpError.reason`` says
what happened. All channels to one address on one link share one conversation. A channel belongs to the event loop it
was opened in. ``conversation`` is the state machine without I/O.
"""

from gateway.isotp.bus import IsoTpBus
from gateway.isotp.channels import (
    FunctionalListener,
    IsoTpChannel,
    IsoTpFunctional,
    open_channel,
    open_functional,
    open_functional_listener,
)
from gateway.isotp.model import Address, Addressing, IsoTpError, OversizeError, Settings, fixed

__all__ = [
    "Address",
    "Addressing",
    "FunctionalListener",
    "IsoTpBus",
    "IsoTpChannel",
    "IsoTpError",
    "IsoTpFunctional",
    "OversizeError",
    "Settings",
    "fixed",
    "open_channel",
    "open_functional",
    "open_functional_listener",
]
