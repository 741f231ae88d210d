"""Which bits of a frame a signal occupies, and which signals get in each other's way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dbc.manifest import MuxBranch, Signal

#: Beyond this many different multiplexing conditions in one message, only signals with the same one are compared.
MAX_CONDITIONS = 1000

Conditions = tuple[MuxBranch, ...]


def last_byte(start: int, length: int, big_endian: bool) -> int:
    """The index of the last byte that a signal reaches into; ``length`` is at least 1."""
    first = start ^ 7 if big_endian else start  # a big-endian signal runs on from its most significant bit
    return (first + length - 1) >> 3


def bit_mask(start: int, length: int, big_endian: bool) -> int:
    """The bits a signal occupies, bit ``n`` of the result for bit ``n & 7`` of byte ``n >> 3``."""
    if not big_endian:
        return ((1 << length) - 1) << start
    mask = 0
    for position in range(start ^ 7, (start ^ 7) + length):
        mask |= 1 << (position ^ 7)
    return mask


def compatible(one: Conditions, other: Conditions) -> bool:
    """Whether both conditions can hold in one frame: no selector would need two values at once."""
    for branch in one:
        for against in other:
            if branch.selector == against.selector and not _intersect(branch, against):
                return False
    return True


def _intersect(one: MuxBranch, other: MuxBranch) -> bool:
    return any(
        low <= other_high and other_low <= high for low, high in one.ranges for other_low, other_high in other.ranges
    )


def overlaps(signals: Sequence[Signal]) -> Iterator[tuple[int, int]]:
    """Pairs (earlier, later) of signals that share bits and can be present together; each later signal once."""
    masks = [bit_mask(s.start, s.length, s.big_endian) for s in signals]
    groups: dict[Conditions, list[int]] = {}
    for index, signal in enumerate(signals):
        groups.setdefault(signal.mux, []).append(index)
    unions = {conditions: _union(masks, members) for conditions, members in groups.items()}
    comparable = len(groups) <= MAX_CONDITIONS
    for conditions, members in groups.items():
        rivals = [c for c in groups if compatible(conditions, c)] if comparable else [conditions]
        for index in members:
            for rival in rivals:
                if masks[index] & unions[rival]:
                    earlier = next((i for i in groups[rival] if i < index and masks[i] & masks[index]), None)
                    if earlier is not None:
                        yield earlier, index
                        break


def _union(masks: Sequence[int], members: Sequence[int]) -> int:
    union = 0
    for index in members:
        union |= masks[index]
    return union
