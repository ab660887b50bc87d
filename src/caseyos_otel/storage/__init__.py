"""What is stored: tables, rows, the writer, migrations, and rows through a caller's own session."""
