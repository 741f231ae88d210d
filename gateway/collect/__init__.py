"""Collection schemes: which of a vehicle's samples and frames are worth storing, and what they may cost.

``load_schemes`` reads scheme files, ``Selector`` runs them, ``BudgetKeeper`` tells how short the day's bytes are.
"""

from __future__ import annotations

from gateway.collect.budget import BudgetConfig, BudgetKeeper, BudgetState
from gateway.collect.collected import OUTCOMES, Collected, SelectedBlock
from gateway.collect.filters import BusFilter
from gateway.collect.model import Limits, SchemeFile, load_scheme, parse_scheme
from gateway.collect.names import Names
from gateway.collect.resolve import LoadedSchemes, Scheme, load_schemes, resolve
from gateway.collect.selector import Selector

__all__ = [
    "OUTCOMES",
    "BudgetConfig",
    "BudgetKeeper",
    "BudgetState",
    "BusFilter",
    "Collected",
    "Limits",
    "LoadedSchemes",
    "Names",
    "Scheme",
    "SchemeFile",
    "SelectedBlock",
    "Selector",
    "load_scheme",
    "load_schemes",
    "parse_scheme",
    "resolve",
]
