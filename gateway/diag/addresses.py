"""From an ECU's configuration to the ISO-TP conversation with it."""

from __future__ import annotations

from gateway.diag.config import EcuConfig
from gateway.errors import ConfigError
from gateway.isotp import Address, Addressing, Settings, fixed


def address_of(ecu: EcuConfig, *, where: str = "") -> Address:
    """Both directions, seen from the gateway.

    Raises:
        ConfigError: identifiers and addresses do not fit the addressing.
    """
    try:
        if ecu.addressing == "normal_fixed":
            return fixed(ecu.target_address, ecu.source_address)
        if not ecu.request_id or not ecu.response_id:
            raise ValueError(f"{ecu.addressing} addressing needs request_id and response_id")
        extensions: tuple[int | None, int | None] = (None, None)
        if ecu.addressing == "extended":
            extensions = (ecu.target_address, ecu.source_address)
        elif ecu.addressing == "mixed":
            extensions = (ecu.address_extension, ecu.address_extension)
        return Address(
            tx_id=ecu.request_id,
            rx_id=ecu.response_id,
            extended_id=ecu.extended_id,
            addressing=Addressing(ecu.addressing),
            tx_extension=extensions[0],
            rx_extension=extensions[1],
        )
    except ValueError as error:
        raise ConfigError(f"ECU {ecu.name}: {error}", where=where) from error


def functional_address_of(ecu: EcuConfig) -> Address | None:
    """Where requests to all go on the ECU's bus; only the sending direction means anything. None: it hears none."""
    if ecu.functional_id is None:
        return None
    is_extended = ecu.extended_id or ecu.addressing == "normal_fixed"
    return Address(tx_id=ecu.functional_id, rx_id=ecu.functional_id, extended_id=is_extended)


def settings_of(ecu: EcuConfig, *, where: str = "") -> Settings:
    """How we speak with it.

    Raises:
        ConfigError: a frame length that does not exist.
    """
    try:
        padding = ecu.padding if ecu.padded else None
        return Settings(block_size=ecu.block_size, st_min=ecu.st_min, tx_dl=ecu.tx_dl, padding=padding)
    except ValueError as error:
        raise ConfigError(f"ECU {ecu.name}: {error}", where=where) from error
