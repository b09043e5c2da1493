"""Alembic migrations of the site database, run by ``client.database.session``."""
