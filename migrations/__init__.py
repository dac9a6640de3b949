"""Alembic environment and revisions of the mlux database."""
