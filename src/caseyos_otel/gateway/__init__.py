"""OTLP over the wire: limits, parsing, event names, the spool, the acknowledgement; everything else happens behind it."""
