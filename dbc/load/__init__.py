"""Loading CAN databases as far as they are sound, reporting what is wrong with them, compiling them to a manifest.

For workstations and build hosts: the running gateway reads manifests and never imports this package.
"""

from dbc.load.codes import Severity
from dbc.load.compiler import compile_databases, compile_manifest
from dbc.load.files import load_dbc, load_file
from dbc.load.model import Defect, LoadedDatabase

__all__ = [
    "Defect",
    "LoadedDatabase",
    "Severity",
    "compile_databases",
    "compile_manifest",
    "load_dbc",
    "load_file",
]
