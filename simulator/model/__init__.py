"""The physical model of the Outrider One: a pure core that is told how much time passes and never reads a clock."""
