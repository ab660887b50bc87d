"""What happened: the sixteen events of the specification, and how a service declares its own."""
