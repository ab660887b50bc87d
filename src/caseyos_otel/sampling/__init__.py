"""Whether a trace is kept: consistent probability, policies, the trace table, and the two halves that ask it."""
