"""The bench technician's tool: ``outrider uds``."""
