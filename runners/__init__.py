"""What the commands do: each reads, builds, runs and prints; nothing in here that Python code could not call."""
