"""Simulated ECUs: UDS servers on the vehicle's buses, fed by the one vehicle model.

Written from the standards apart from ``gateway``; ISO-TP comes from can-isotp or the kernel, so that one misreading
cannot hide in both ends.
"""
