"""Taking batches: limits, sequences, durable storage before the acknowledgement, check-ins and re-requests."""
