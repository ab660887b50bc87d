"""Alembic, run on one connection of ours.

Its usual env.py is left out on purpose: it works through module globals (`alembic.op`, `alembic.context`), and a host
that migrates its own tables in another thread would meet ours in them. Revisions get their `op` as an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.runtime.migration import MigrationStep, RevisionStep
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import Connection

from caseyos_otel.storage.tables import VERSION_TABLE


def migrate(connection: Connection, migrations: Path, to: str) -> None:
    """Apply what leads from this database's revision to `to`; a revision of a newer release stays."""
    steps = partial(_steps, ScriptDirectory(str(migrations)), to)
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "fn": steps})
    context.run_migrations(op=Operations(context))


def _steps(scripts: ScriptDirectory, to: str, heads: Iterable[str], _context: MigrationContext) -> list[RevisionStep]:
    applied = next(iter(heads), "base")
    if applied != "base" and not _known(scripts, applied):
        return []
    revisions = list(scripts.iterate_revisions(to, applied))
    return [MigrationStep.upgrade_from_script(scripts.revision_map, revision) for revision in reversed(revisions)]


def _known(scripts: ScriptDirectory, revision: str) -> bool:
    try:
        return scripts.get_revision(revision) is not None
    except (CommandError, ResolutionError):
        return False
