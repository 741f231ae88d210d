"""ISO 13400-2: diagnostics over IP."""
