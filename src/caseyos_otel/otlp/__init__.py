"""How events are written: OTLP request bytes, the one form on disk and on the wire."""
