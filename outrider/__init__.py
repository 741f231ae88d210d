"""The ``outrider`` command: finds the subcommand's package and hands over. It holds no rules of its own."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("outrider")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"
