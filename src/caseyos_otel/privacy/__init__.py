"""Whose it is: what is kept of a person, and for how long."""
