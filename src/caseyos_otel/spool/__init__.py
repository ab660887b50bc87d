"""What must not be lost: append-only segments of OTLP frames, read by one cursor a destination."""
