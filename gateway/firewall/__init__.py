"""Guards: the diagnostic firewall in front of the ECUs, and the CAN firewall between buses."""
