"""How an event is shaped: promote, suppress, redact, measure; then the sinks."""
