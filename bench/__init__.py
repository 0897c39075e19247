"""Benchmarks against real peers, side by side in one run; see `python -m bench --help`."""
