"""The hot path: what `track()` costs its caller, and the worker that does the rest."""
