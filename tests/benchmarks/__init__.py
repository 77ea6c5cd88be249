"""Measurements, printed by ``python -m tests.benchmarks``; not part of the suite."""
