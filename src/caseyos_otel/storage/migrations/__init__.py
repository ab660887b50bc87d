"""Alembic revisions of our tables. `schema` runs them; there is no env.py, see there."""
