"""How handlers get what they share."""

from __future__ import annotations

from typing import TypeAlias

from litestar.di import NamedDependency

from cloud.services import Services

#: The annotation of a handler's ``services`` argument.
Injected: TypeAlias = NamedDependency[Services]
