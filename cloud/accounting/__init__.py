"""Where every item went, as vehicle and cloud each count it, and why a vehicle is silent."""
