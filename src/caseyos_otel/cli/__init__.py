"""The command line: one file a noun, each command calls one function below and prints."""
