"""Training on trees: a consumer of the files that a run leaves, which imports nothing of the simulation."""
