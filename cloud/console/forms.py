"""What browsers send: forms and numbers in addresses."""

from __future__ import annotations

from urllib.parse import quote

from cloud.console.render import HOME, AnyRequest

MAX_OFFSET = 1_000_000_000


async def read_form(request: AnyRequest) -> dict[str, str]:
    """The text fields of a form; files are left out, of several values the last counts."""
    form = await request.form()
    return {key: value for key, value in form.items() if isinstance(value, str)}


def number(text: str) -> int:
    """A whole number from an address, 0 for anything else."""
    return min(int(text), MAX_OFFSET) if text.isascii() and text.isdigit() and len(text) < 12 else 0


def vehicle_path(vehicle_id: str, tab: str = "") -> str:
    """The address of a vehicle's page."""
    return f"{HOME}/vehicles/{quote(vehicle_id, safe='')}{tab}"
