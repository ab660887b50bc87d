"""caseyos-otel"""
