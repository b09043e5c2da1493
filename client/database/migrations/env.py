"""Where Alembic enters: the connection comes from ``client.database.session``, inside its transaction."""

from __future__ import annotations

from alembic import context

from client.database.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter most things of a table in place
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
