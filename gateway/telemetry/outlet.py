"""The way for events of other components into the batches that go up, counted like everything that was selected."""

from __future__ import annotations

from gateway.runtime import Channel
from gateway.telemetry.batcher import Piece
from gateway.telemetry.ledger import LedgerKeeper
from gateway.wire.batch import Priority, UploadRule
from gateway.wire.samples import Event


class EventOutlet:
    """Hands events to the writer. Whoever uses it stops before the collector, which closes the channel."""

    def __init__(self, channel: Channel[list[Piece]], keeper: LedgerKeeper) -> None:
        self._channel, self._keeper = channel, keeper

    async def emit(self, priority: Priority, *events: Event, scheme: tuple[str, int] = ("gateway", 0)) -> None:
        """Put events on their way; waits while the disk lags. Cancelled while waiting, nothing was emitted.

        Raises:
            ChannelClosed: the gateway is stopping.
        """
        piece = Piece(
            priority=priority, upload=UploadRule.ANY, resolution_ns=1_000_000, scheme=scheme, events=tuple(events)
        )
        await self._channel.send([piece])
        self._keeper.select_items(piece.items)
