"""Parameter group numbers of SAE J1939 identifiers (J1939-21, 5.2)."""

from __future__ import annotations

#: PDU formats below this have a destination address in the low byte of the group number, which is no part of it.
PDU2_FIRST_FORMAT = 240


def pgn_of(can_id: int) -> int:
    """The 18-bit parameter group number of a 29-bit identifier.

    Extended data page, data page and PDU format always belong to it; the PDU specific byte only in PDU2 format, where
    it is the group extension. In PDU1 format that byte is the destination, and the number ends in zeros.
    """
    page_and_format = (can_id >> 16) & 0x3FF
    if page_and_format & 0xFF < PDU2_FIRST_FORMAT:
        return page_and_format << 8
    return page_and_format << 8 | (can_id >> 8) & 0xFF
