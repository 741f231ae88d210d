"""Where files lie: ``<tier>/vehicle=<id>/day=<UTC date>/<random>.parquet`` below the lake's folder."""

from __future__ import annotations

import secrets
from datetime import date, timedelta
from urllib.parse import quote

EPOCH = date(1970, 1, 1)


def day_name(day: int) -> str:
    """ISO date of a day counted since the epoch."""
    return (EPOCH + timedelta(days=day)).isoformat()


def vehicle_folder(vehicle_id: str) -> str:
    """A folder name that is safe for any id: percent-encoded, and never ``.`` or ``..``."""
    return "vehicle=" + quote(vehicle_id, safe="")


def new_path(tier: str, vehicle_id: str, day: int) -> str:
    """A path no file has had before, relative to the lake's folder."""
    return f"{tier}/{vehicle_folder(vehicle_id)}/day={day_name(day)}/{secrets.token_hex(12)}.parquet"
