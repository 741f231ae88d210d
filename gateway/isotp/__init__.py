"""ISO 15765-2: messages of any length over CAN and CAN FD."""
