"""What `track()` costs its caller, against the peers, in one interleaved run: `python -m benchmarks`."""
