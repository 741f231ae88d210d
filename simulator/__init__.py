"""A simulated vehicle: one physical model behind every signal of its buses, a log player and a bus-load generator."""
