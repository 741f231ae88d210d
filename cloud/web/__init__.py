"""What the HTTP side shares: problem details, roles on routes, request ids, health, metrics, listeners."""
