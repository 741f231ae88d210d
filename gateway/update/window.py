"""Maintenance windows in the vehicle's local time, by the wall clock: over midnight, on some days, through DST.

A window belongs to the day on which it begins. Where the clocks skip an hour, a window inside that hour does not come
on that day; where they repeat one, it comes twice. The deadline is what ends waiting for a window that never comes.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.errors import ConfigError
from gateway.wire.uptane import InstallPolicy

DAY_MIN = 24 * 60
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def local_zone(name: str, utc_offset_min: int) -> tzinfo:
    """The vehicle's zone: an IANA name, or a fixed offset where none is given.

    Raises:
        ConfigError: this machine does not know the zone.
    """
    if not name:
        return timezone(timedelta(minutes=utc_offset_min))
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(f"no such time zone: {name!r}", where="$.update.timezone") from error


def window_missing(policy: InstallPolicy, now_ns: int, zone: tzinfo) -> str:
    """ "" when the window is open, or there is none; else what is waited for, for people.

    ``now_ns``: UTC, nanoseconds since the epoch.
    """
    if policy.window_start_min is None and policy.window_end_min is None and not policy.window_days:
        return ""
    start_min = (policy.window_start_min or 0) % DAY_MIN
    end_min = (policy.window_end_min if policy.window_end_min is not None else start_min) % DAY_MIN
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now_ns // 1000)).astimezone(zone)
    minute = local.hour * 60 + local.minute
    length_min = (end_min - start_min) % DAY_MIN or DAY_MIN
    began_today = 0 <= minute - start_min < length_min
    began_yesterday = minute + DAY_MIN - start_min < length_min
    today = local.weekday()
    days = policy.window_days or tuple(range(7))
    if (began_today and today in days) or (began_yesterday and (today - 1) % 7 in days):
        return ""
    named = " " + " ".join(_DAYS[day] for day in sorted(set(days)) if 0 <= day < 7) if policy.window_days else ""
    return f"the window {_clock(start_min)}-{_clock(end_min)}{named} local time"


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
