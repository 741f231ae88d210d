"""The manual and the program agree."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from cloud.auth.middleware import ROLE
from cloud.config import CloudConfig
from tests.cloud.web.test_roles import all_routes, is_console
from tests.support import ROOT


def test_every_route_is_in_the_reference_with_its_role(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "reference" / "rest-api.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `(\w+ \S+)` \| (\w+) \|", text, re.MULTILINE))
    real = {
        f"{method} {re.sub(r':(str|int)', '', path)}": handler.opt[ROLE].label
        for method, path, handler in all_routes(tmp_path)
        if method != "HEAD" and not is_console(path) and not path.startswith("/schema")
    }
    assert told == real


def test_every_configuration_key_is_in_the_manual_with_its_default() -> None:
    text = (ROOT / "docs" / "operator" / "run-the-cloud.md").read_text("utf-8")
    missing: list[str] = []
    for section, keys in msgspec.to_builtins(CloudConfig()).items():
        if not isinstance(keys, dict):
            continue
        part = text.partition(f"### [{section}]")[2].partition("###")[0]
        for key, value in keys.items():
            row = re.search(rf"^\| `{key}` \| `(.*?)` \|", part, re.MULTILINE)
            shown = row.group(1).replace("_", "").strip('"') if row else None
            if shown != str(value).replace("_", ""):
                missing.append(f"{section}.{key} = {value}")
    assert missing == []
