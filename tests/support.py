"""Where tests find things; constants only, so that any test file may import it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("OUTRIDER_DATA", ROOT.parent / "shared" / "data")).resolve()
DBC_DIR = DATA / "can" / "dbc"
LOG_DIR = DATA / "can" / "logs"
REQUIRE_ALL = os.environ.get("OUTRIDER_REQUIRE_ALL") == "1"
#: Long campaigns of fuzzing and replay (``OUTRIDER_LONG=1``).
LONG = os.environ.get("OUTRIDER_LONG") == "1"
