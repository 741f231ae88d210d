"""DoIP (ISO 13400-2): the edge node, and the client that testers use."""
