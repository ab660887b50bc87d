"""`caseyos-otel spool status|drain|replay`: what waits for its destinations, and what was set aside."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from caseyos_otel import settings
from caseyos_otel.errors import CaseyosOtelError
from caseyos_otel.settings import Settings

app = typer.Typer(no_args_is_help=True, help="What waits for its destinations, and what was set aside.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def status(as_json: AsJson = False) -> None:
    """What waits for which destination since when, who owns it, what is set aside. Exits 1 where the spool is full."""
    seen = _status(settings.load())
    typer.echo(json.dumps(seen) if as_json else _text(seen))
    raise typer.Exit(1 if seen["full"] else 0)


@app.command()
def drain(
    timeout: Annotated[float, typer.Option(help="Seconds that it may take.", min=0.0)] = 30.0, as_json: AsJson = False
) -> None:
    """Deliver everything that waits. Exits 1 if something is left at the deadline. For a hook before a container stops."""
    from caseyos_otel.events import declared
    from caseyos_otel.events.registry import registry
    from caseyos_otel.pipeline import draining

    in_force = settings.load()
    declared.load_or_report(in_force.hooks, registry)
    registry.load_entry_points()
    waited = draining.waiting(in_force)
    with _progress("delivering", sum(waited.values())) as show:
        done = draining.drain(in_force, timeout, lambda left: show(sum(waited.values()) - left))
    delivered = {name: max(0, waited[name] - left) for name, left in done.left.items()}
    if as_json:
        typer.echo(json.dumps({"delivered": delivered, **asdict(done)}))
    else:
        typer.echo("\n".join(_drained(delivered, done.left, done.errors)))
    raise typer.Exit(1 if any(done.left.values()) else 0)


@app.command()
def replay(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go back, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put back what was set aside and can be delivered now: declared meanwhile, or mended. Again does no harm."""
    from caseyos_otel.pipeline import replay as replaying

    in_force = settings.load()
    seen = 0
    try:
        with _progress("replaying", replaying.count(in_force)) as show:

            def one_more(n: int) -> None:
                nonlocal seen
                show(seen := seen + n)

            done = replaying.replay(in_force, dry_run=dry_run, progress=one_more)
    except CaseyosOtelError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    kept = {reason: n for reason, n in done.kept.items() if n}
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "back": done.back, "kept": kept}))
        return
    would = "would go" if dry_run else "went"
    stays = "".join(f" Still set aside: {n} {reason}." for reason, n in kept.items())
    typer.echo(f"{done.back} events {would} back into the spool.{stays}")
    if done.back and not dry_run:
        typer.echo("A running process of the service delivers them; so does `caseyos-otel spool drain`.")


def _status(in_force: Settings) -> dict[str, Any]:
    from caseyos_otel.spool import disk, quarantine
    from caseyos_otel.spool.space import Space, used

    root = in_force.spool_path
    bytes_used, kind = used(root), disk.type_of(root)
    names = [d.name for d in in_force.destinations() if d.on and d.name != "log"]
    return {
        "directory": str(root),
        "disk": kind,
        "lasts": not disk.is_ephemeral(kind),
        "bytes": bytes_used,
        "max_bytes": in_force.spool_max_bytes,
        "full": bytes_used > Space(root, in_force.spool_max_bytes).for_failures,
        "pending": {name: _pending(root, name) for name in names},
        "directories": [_folder(folder) for folder in _folders(root)],
        "quarantined": len(quarantine.files(root)),
        "set_aside": _set_aside(root),
    }


def _folders(root: Path) -> list[Path]:
    from caseyos_otel.spool import find

    return find.folders(root)


def _pending(root: Path, destination: str) -> dict[str, Any]:
    from caseyos_otel.spool.status import pending

    return asdict(pending(root, destination))


def _folder(folder: Path) -> dict[str, Any]:
    from caseyos_otel.spool import find

    return {
        "name": folder.name,
        "owner": "alive" if find.is_alive(folder) else "dead",
        "segments": len(find.segments(folder)),
    }


def _set_aside(root: Path) -> dict[str, int]:
    from caseyos_otel.pipeline import set_aside

    return dict(Counter(str(e.get("reason")) for path in set_aside.files(root) for e in set_aside.entries(path)))


def _text(seen: dict[str, Any]) -> str:
    lasting = "" if seen["lasts"] else ", which does not outlive its container"
    lines = [
        f"{seen['directory']} on {seen['disk'] or 'an unknown disk'}{lasting}",
        f"{seen['bytes']} of {seen['max_bytes']} bytes{', FULL' if seen['full'] else ''}",
    ]
    for name, waits in seen["pending"].items():
        since = f", the oldest for {waits['oldest_age']:.0f} s" if waits["oldest_age"] is not None else ""
        lines.append(f"{name}: {waits['records']} waiting{since}")
    alive = sum(1 for folder in seen["directories"] if folder["owner"] == "alive")
    lines.append(f"{len(seen['directories'])} processes left something, {alive} of them alive")
    lines += [f"set aside: {n} ({reason})" for reason, n in seen["set_aside"].items()]
    lines += [f"quarantined: {seen['quarantined']} damaged pieces"] if seen["quarantined"] else []
    return "\n".join(lines)


def _drained(delivered: dict[str, int], left: Any, errors: Any) -> Iterator[str]:
    for name, n in left.items():
        because = f": {errors[name]}" if name in errors else ""
        yield f"{name}: {delivered[name]} delivered" + (f", {n} left{because}" if n else "")
    if not left:
        yield "No destination reads the spool."


@contextmanager
def _progress(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; called with how far it is."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    with typer.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield lambda done: bar.update(max(0, done - bar.pos))
