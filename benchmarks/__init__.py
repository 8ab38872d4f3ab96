"""Measurements that are recorded in docs/benchmarks.md; run them with `make bench`."""
