"""Which fetcher images come through: a stick that is there, and the cloud for what it does not hold."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable

from gateway.errors import TransportError
from gateway.update.ports import Fetcher
from gateway.wire.uptane import FileFacts

log = logging.getLogger(__name__)


class Fetchers:
    """A ``Fetcher`` for targets over two others. Metadata never mixes: a refresh takes one source whole."""

    def __init__(self, online: Fetcher | None, offline: Callable[[], Fetcher | None] = lambda: None) -> None:
        """``offline`` gives the stick's, as long as there is one."""
        self.online, self.offline = online, offline

    async def metadata(self, repository: str, name: str, max_bytes: int) -> bytes | None:
        """The cloud's. See ``Fetcher``."""
        if self.online is None:
            raise TransportError("there is no way to the cloud")
        return await self.online.metadata(repository, name, max_bytes)

    async def target(self, file: FileFacts, offset: int) -> AsyncGenerator[bytes, None]:
        """The stick's bytes; where it ends too soon, the cloud's from there on. See ``Fetcher``."""
        why = TransportError("there is no way to the cloud")
        for source in (self.offline(), self.online):
            if source is None:
                continue
            try:
                async for piece in source.target(file, offset):
                    yield piece
                    offset += len(piece)
                if offset >= file.length:
                    return
                why = TransportError(f"{file.filename}: ended after {offset} of {file.length} bytes")
            except TransportError as error:
                log.info("update_source_failed", extra={"file": file.filename, "offset": offset, "error": str(error)})
                why = error
        raise why
