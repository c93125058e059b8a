"""Makers of hostile input; benchmarks/fuzz.py runs many, tests/unit/test_fuzz.py a few."""
