"""Where events go: structured log, database, OTLP, Sentry; and the delivery thread each durable destination has."""
