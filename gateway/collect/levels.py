"""What each level of degradation means; the budget keeper sets it, the selector obeys it.

| level | what is collected |
|---|---|
| 0 | everything as the schemes say |
| 1 | bulk stops |
| 2, 3, 4 | also: normal schemes are 2, 4, 8 times coarser, their black boxes stop |
| 5 | normal stops too; critical goes on from its reserve |
| 6 | nothing: the day's bytes and the reserve are spent |
"""

from __future__ import annotations

from gateway.wire.batch import Priority

MAX_LEVEL = 6
_COARSER = {2: 2, 3: 4, 4: 8}


def stopped(priority: Priority, level: int, *, raw: bool = False) -> bool:
    """Whether schemes of a priority (their raw frames, with ``raw``) collect nothing at a level."""
    match priority:
        case Priority.BULK:
            return level >= 1
        case Priority.NORMAL:
            return level >= (2 if raw else 5)
        case Priority.CRITICAL:
            return level >= MAX_LEVEL


def factor(priority: Priority, level: int) -> int:
    """By how much the periods and dead bands of a priority grow at a level."""
    return _COARSER.get(level, 1) if priority == Priority.NORMAL else 1
