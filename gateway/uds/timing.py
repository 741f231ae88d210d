"""How long a client waits, and how often it tries."""

from __future__ import annotations

import msgspec

MS_NS = 1_000_000


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one conversation (ISO 14229-2). The ECU's own P2 and P2* replace ours when it tells them (0x50).

    ``latency_ms`` is what bus and routing add on top of P2 and P2*. ``transfer_ms`` is allowed besides on channels that
    cannot tell that a long answer is arriving (see ``ReceptionAware``): P2 ends with the first frame, a PDU later.
    """

    p2_ms: int = 50
    p2_star_ms: int = 5000
    latency_ms: int = 100
    transfer_ms: int = 1000
    s3_ms: int = 5000  # the ECU's session timer; kept alive at half of it
    max_pending: int = 120  # answers 0x78 in a row
    max_total_ms: int = 600_000  # of one request, with all its 0x78s and repetitions
    busy_retries: int = 10  # repetitions after 0x21
    busy_pause_ms: int = 100
    settle_ms: int = 10_000  # waited at most for the answer to a cancelled request before the next is sent
    adopt_server_timing: bool = True
