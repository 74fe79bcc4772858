"""Benchmarks: `python -m experiments.bench NAME [--json FILE] [--quick]`."""
