"""How payloads are loaded for trial: by the code that will read them, on a copy that nobody uses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from dbc.manifest import Manifest, ManifestError
from gateway.collect.model import Limits
from gateway.collect.resolve import load_schemes
from gateway.config import load_config
from gateway.errors import ConfigError
from gateway.update.model import InstallError
from gateway.update.payload import DryLoad

MIN_MODEL_BYTES = 16
TFLITE_MAGIC = b"TFL3"  # at byte 4


def payload_checks(
    *, vehicle: str, manifest: Callable[[], Manifest], limits: Limits, model: DryLoad | None = None
) -> Mapping[str, DryLoad]:
    """A check for each kind of payload.

    Args:
        vehicle: whose configuration must stay this vehicle's.
        manifest: the one in use, which schemes must fit.
        limits: what schemes may ask for.
        model: loads an ML model for trial; None: only its magic is looked at.
    """

    def check_scheme(content: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="outrider-") as folder:
            path = Path(folder) / "scheme.toml"
            path.write_bytes(content)
            loaded = load_schemes([path], manifest(), limits)
        if loaded.errors:
            raise InstallError(f"scheme: {str(loaded.errors[0]).replace(str(path), 'the file')}")

    def check_config(content: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="outrider-") as folder:
            path = Path(folder) / "gateway.toml"
            path.write_bytes(content)
            try:
                config = load_config(path)
            except ConfigError as error:
                raise InstallError(f"configuration: {str(error).replace(str(path), 'the file')}") from error
        if config.vehicle != vehicle:
            raise InstallError(f"configuration: is for {config.vehicle!r}")

    return {"manifest": check_manifest, "scheme": check_scheme, "config": check_config, "model": model or check_model}


def check_manifest(content: bytes) -> None:
    """A compiled manifest. Raises ``InstallError``."""
    try:
        Manifest.from_bytes(content)
    except ManifestError as error:
        raise InstallError(f"manifest: {error}") from error


def check_model(content: bytes) -> None:
    """A TFLite flat buffer by its looks; whoever runs models can load it in earnest. Raises ``InstallError``."""
    if len(content) < MIN_MODEL_BYTES or content[4:8] != TFLITE_MAGIC:
        raise InstallError("model: not a TFLite file")
