"""Sentry: a failure is an issue, every event a breadcrumb, a success a log."""
