"""What the stored events say: one question a module, each one SQL query."""
