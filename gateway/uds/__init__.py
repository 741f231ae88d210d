"""ISO 14229-1 as a client: requests, responses, sessions."""
