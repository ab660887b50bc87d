"""What is known of the schema without Alembic, which a service that only writes never imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from alembic.script import ScriptDirectory

from caseyos_otel.storage import schema
from caseyos_otel.storage.engine import create, parse_url

LOOKS = """
import sys
from caseyos_otel.storage import schema, writer
from caseyos_otel.storage.engine import create, parse_url
engine = create(parse_url(sys.argv[1]))
schema.upgrade(engine)
assert schema.is_writable(engine)
print(sorted({name.partition(".")[0] for name in sys.modules} & {"alembic", "mako", "pygments"}))
"""


def test_the_names_of_the_files_are_alembic_s_revisions_in_its_order() -> None:
    found = ScriptDirectory(str(schema.MIGRATIONS)).walk_revisions()
    assert [script.revision for script in found][::-1] == list(schema.REVISIONS)
    assert schema.WRITABLE_FROM in schema.REVISIONS


def test_a_database_that_is_up_to_date_is_looked_at_without_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'caseyos.db'}"
    schema.upgrade(create(parse_url(url)))
    done = subprocess.run([sys.executable, "-c", LOOKS, url], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[]\n", done.stderr
