"""What OpenTelemetry's loader calls: distro, configurator, instrumentor, exporters by entry point."""
