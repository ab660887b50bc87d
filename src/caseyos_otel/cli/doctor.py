"""`caseyos-otel doctor`: what is in force, where it came from, whether each destination works, and how to mend what does not."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from caseyos_otel.cli import checkup


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the configuration and test every destination that is on. Exits 1 if something is broken."""
    report = checkup.examine()
    typer.echo(json.dumps(report, indent=2, default=str) if as_json else _text(report))
    raise typer.Exit(1 if report["broken"] else 0)


def _text(report: checkup.Report) -> str:
    lines = [f"caseyos-otel {report['version']}", "", "Configuration (default unless marked):"]
    for row in report["configuration"]:
        mark = "" if row["source"] == "default" else f"   [{row['source']}]"
        lines.append(f"  {row['name']:42} {row['value']}{mark}")
    lines += ["", "Destinations:"]
    for destination in report["destinations"]:
        state = "on " if destination["on"] else "off"
        result = destination["result"]
        verdict = {"ok": "works", "broken": "BROKEN"}.get(result["state"], "")
        lines.append(f"  {destination['name']:10} {state} because of {destination['why']}   {verdict}".rstrip())
        lines += [f"             {result['detail']}"] if result["detail"] else []
        lines += [f"             mend: {result['mend']}"] if result["mend"] else []
    lines += ["", "OpenTelemetry:", *(f"  {line}" for line in report["opentelemetry"])]
    lines += ["", "Processes seen within the hour:"]
    for process in report["processes"]:
        who = " (gateway)" if "gateway" in process["notes"] else ""
        lines.append(
            f"  pid {process['pid']}{who}: queued {process['queued']}, dropped {process['dropped'] or 'nothing'}"
        )
    lines += [] if report["processes"] else ["  none"]
    for problem in report["broken"]:
        lines += ["", f"! {problem}"]
    return "\n".join(lines)
