"""Getting an ECU into the state that a service needs: session first, then security.

What is needed comes from the user (``--session``, ``--unlock``), else from the vehicle file.
"""

from __future__ import annotations

import argparse

import msgspec

from gateway.uds.client import UdsClient
from gateway.uds.names import Session
from tester.errors import UsageError
from tester.keys import key_function
from tester.output import note
from tester.vehicle import Access, Ecu

#: What people write for a session.
SESSION_WORDS = {"default": 1, "programming": 2, "extended": 3, "safety": 4}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the user said about session and security; None: as the vehicle file says."""

    session: int | None = None
    level: int | None = None
    algorithm: str = ""
    constant: str = ""
    key: str = ""


def session_number(text: str, ecu: Ecu | None = None) -> int:
    """``extended``, ``03``, ``0x60``, or a name from the vehicle file.

    Raises:
        UsageError: none of these.
    """
    if ecu is not None:
        for number, name in ecu.sessions.items():
            if name.lower() == text.lower():
                return number
    if text.lower() in SESSION_WORDS:
        return SESSION_WORDS[text.lower()]
    try:
        number = int(text, 16)
    except ValueError:
        number = 0
    if not 1 <= number <= 0x7F:
        raise UsageError(f"no session {text!r}: default, programming, extended, safety, or 01 to 7F")
    return number


def add_access(parser: argparse.ArgumentParser) -> None:
    """``--session``, ``--unlock`` and how to make keys."""
    group = parser.add_argument_group("session and security (default: what the vehicle file says is needed)")
    group.add_argument("--session", metavar="NAME|HEX", help="enter this session first")
    group.add_argument("--unlock", metavar="HEX", help="open this security level first (the odd number)")
    add_keys(group)


def add_keys(group: argparse._ActionsContainer) -> None:
    """How to make keys."""
    group.add_argument(
        "--algorithm", default="", metavar="NAME",
        help="xor, xor_rotate, aes_cmac, module:function, file.py:function, or a library with GenerateKeyEx",
    )  # fmt: skip
    group.add_argument("--constant", default="", metavar="HEX", help="the secret of xor, xor_rotate and aes_cmac")
    group.add_argument("--key", default="", metavar="HEX", help="send exactly this key")


def level_number(text: str) -> int:
    """An odd security level.

    Raises:
        UsageError: it is none.
    """
    try:
        level = int(text, 16)
    except ValueError:
        level = 0
    if not 1 <= level <= 0x7D or not level & 1:
        raise UsageError(f"no security level {text!r}: an odd hexadecimal number, 01 to 7D")
    return level


def wanted_of(args: argparse.Namespace, ecu: Ecu | None = None) -> Wanted:
    """From the arguments.

    Raises:
        UsageError: a session or level that cannot be.
    """
    return Wanted(
        session=session_number(args.session, ecu) if getattr(args, "session", None) else None,
        level=level_number(args.unlock) if getattr(args, "unlock", None) else None,
        algorithm=getattr(args, "algorithm", ""), constant=getattr(args, "constant", ""),
        key=getattr(args, "key", ""),
    )  # fmt: skip


def needs(ecu: Ecu, access: Access | None, wanted: Wanted, current: int = Session.DEFAULT) -> tuple[int, int | None]:
    """The session to be in and the level to open, before a service with ``access`` can be asked for."""
    level = wanted.level if wanted.level is not None else (access.security if access else None)
    sessions = access.sessions if access else ()
    if wanted.session is not None:
        return wanted.session, level
    if not sessions and level is not None:
        known = ecu.levels.get(level)
        sessions = known.sessions if known and known.sessions else (Session.EXTENDED,)
    if not sessions or current in sessions:
        return current, level
    return (Session.EXTENDED if Session.EXTENDED in sessions else min(sessions)), level


def plan(ecu: Ecu, access: Access | None, wanted: Wanted) -> str:
    """In words what ``prepare`` will do; "" for nothing."""
    session, level = needs(ecu, access, wanted)
    words = [] if session == Session.DEFAULT else [f"enter the {ecu.session_name(session)} session"]
    if level is not None:
        words.append(f"open security level {level:02X}")
    return ", ".join(words)


async def enter(client: UdsClient, session: int) -> None:
    """Go to a session; to programming by way of extended, as ECUs want it.

    Raises:
        As ``UdsClient.session``.
    """
    if client.current_session == session:
        return
    if session == Session.PROGRAMMING and client.current_session == Session.DEFAULT:
        await client.session(Session.EXTENDED)
    await client.session(session)


async def prepare(ecu: Ecu, client: UdsClient, access: Access | None, wanted: Wanted) -> None:
    """Session and security for a service with ``access``.

    Raises:
        UsageError: nobody said how to make the key.
        As ``UdsClient.session`` and ``security_access``.
    """
    session, level = needs(ecu, access, wanted, client.current_session)
    await enter(client, session)
    if level is not None:
        await unlock(ecu, client, level, wanted)


async def unlock(ecu: Ecu, client: UdsClient, level: int, wanted: Wanted) -> bool:
    """Open a level; False: it was open already.

    Raises:
        As ``prepare``.
    """
    make = key_function(ecu, level, algorithm=wanted.algorithm, constant=wanted.constant, key=wanted.key)
    opened = await client.security_access(level, make)
    if opened:
        note(f"{ecu.name}: security level {level:02X} open")
    return opened
