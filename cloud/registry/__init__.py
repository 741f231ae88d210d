"""The vehicles the cloud knows: names, tags, notes and states."""
