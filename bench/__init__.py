"""Benchmarks against torch, in an environment of its own: `make bench`."""
