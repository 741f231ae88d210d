"""Diagnostics in the gateway: who may talk to which ECU, over which port, and what the gateway itself asks its ECUs."""
