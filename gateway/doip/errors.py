"""What a DoIP node may refuse, for testers."""

from __future__ import annotations

from gateway.doip.messages import ActivationCode, DiagnosticNackCode, HeaderNackCode
from gateway.errors import PeerError, TransportError


def _say(codes: type[ActivationCode] | type[DiagnosticNackCode] | type[HeaderNackCode], code: int) -> str:
    known = {int(c): c.name.lower().replace("_", " ") for c in codes}
    return f"0x{code:02X} ({known.get(code, 'not in the standard')})"


class ActivationRefusedError(PeerError):
    """No routing for this tester. ``code`` is the answer's; 0x11 when nobody confirmed it in the vehicle in time."""

    def __init__(self, code: int) -> None:
        super().__init__(f"routing activation answered with {_say(ActivationCode, code)}")
        self.code = code


class DiagnosticNackError(TransportError):
    """A request was not routed to its ECU; ``code`` is the nack's."""

    def __init__(self, target: int, code: int) -> None:
        super().__init__(f"no way to 0x{target:04X}: {_say(DiagnosticNackCode, code)}")
        self.target, self.code = target, code


class HeaderNackError(TransportError):
    """The node could not take a message as it was; ``code`` is the header nack's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"message refused: {_say(HeaderNackCode, code)}")
        self.code = code


class NoAcknowledgementError(TransportError):
    """The node said nothing about a request in time; whether it was routed is not known."""
