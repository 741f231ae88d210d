"""Pages of lists over REST."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

import msgspec
from litestar.params import QueryParameter

T = TypeVar("T")

Limit = Annotated[int, QueryParameter(ge=1, le=500, description="entries in one answer")]
Offset = Annotated[int, QueryParameter(ge=0, le=1_000_000_000, description="entries to skip")]


class Page(msgspec.Struct, Generic[T], frozen=True):
    """``total`` entries exist; these are ``limit`` of them from ``offset``."""

    items: list[T]
    total: int
    limit: int
    offset: int
