"""The ISO 14229-1 client: codecs without I/O, one conversation per ECU, transfers."""
