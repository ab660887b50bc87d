"""What the demo found, as one JSON object and as a page for a person."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from caseyos_otel.insights.funnel import Funnel

from .account import DESTINATIONS, Check, Row, TraceCounts
from .arrived import Received

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything there is to say."""

    rows: Sequence[Row]
    traces: TraceCounts
    funnel: Funnel
    checks: Sequence[Check]
    log_problems: Sequence[str]
    received: Received
    requests: int
    seconds: float
    files: Mapping[str, Path]

    def problems(self) -> list[str]:
        """What does not add up; empty when everything does."""
        sums = [problem for row in self.rows for problem in row.problems()]
        unequal = [f"{c.what}: {c.found} instead of {c.expected}" for c in self.checks if not c.ok]
        return [*sums, *unequal, *self.log_problems[:10]]

    def as_dict(self) -> Json:
        """As JSON."""
        return {
            "ok": not self.problems(),
            "problems": self.problems(),
            "events": {row.event: self._row(row) for row in self.rows},
            "traces": asdict(self.traces),
            "funnel": {step.name: {"count": step.count, "rate": step.rate} for step in self.funnel.steps()},
            "checks": [{**asdict(check), "ok": check.ok} for check in self.checks],
            "requests": self.requests,
            "seconds": round(self.seconds, 1),
            "files": {name: str(path) for name, path in self.files.items()},
            "try_next": try_next(self.files),
        }

    def _row(self, row: Row) -> Json:
        return {
            "caused": row.caused,
            "logged": row.arrived["log"],
            "stored": row.arrived["outcomes"],
            "sentry": row.arrived["sentry"],
            "sentry_logs": self.received.sentry_logs.count(row.event),
            "sentry_issues": self.received.issues.count(row.event),
            "otlp": row.arrived["otlp"],
            "measured": self.received.measured[row.event],
            "dropped": {name: dict(sorted(reasons.items())) for name, reasons in row.dropped.items() if reasons},
            "repeated": {name: count for name, count in row.repeated.items() if count},
        }

    def as_text(self) -> str:
        """As a page of 120 columns."""
        parts = [self._events(), self._traces(), self._funnel(), self._files(), self._verdict()]
        return "\n\n".join(parts)

    def _events(self) -> str:
        heading = ("event", "caused", "logged", "stored", "Sentry", "(logs", "issues)", "OTLP", "dropped by reason")
        lines = [[*heading], *([*self._cells(row)] for row in self.rows), [*self._totals()]]
        return table(lines)

    def _cells(self, row: Row) -> Iterable[str]:
        logs, issues = self.received.sentry_logs.count(row.event), self.received.issues.count(row.event)
        yield row.event
        yield from map(str, (row.caused, row.arrived["log"], row.arrived["outcomes"], row.arrived["sentry"]))
        yield from map(str, (logs, issues, row.arrived["otlp"]))
        reasons = [
            f"{DESTINATIONS[name]}: {count} {reason}"
            for name, counts in row.dropped.items()
            for reason, count in sorted(counts.items())
        ]
        yield ", ".join(reasons) or "-"

    def _totals(self) -> Iterable[str]:
        yield "all"
        yield str(sum(row.caused for row in self.rows))
        yield from (str(sum(row.arrived[name] for row in self.rows)) for name in ("log", "outcomes", "sentry"))
        yield str(len(self.received.sentry_logs.ids()))
        yield str(len(self.received.issues.ids()))
        yield str(sum(row.arrived["otlp"] for row in self.rows))
        yield ", ".join(f"{count} {reason}" for reason, count in sorted(self._reasons().items())) or "-"

    def _reasons(self) -> dict[str, int]:
        totals: dict[str, int] = {}
        for row in self.rows:
            for reasons in row.dropped.values():
                for reason, count in reasons.items():
                    totals[reason] = totals.get(reason, 0) + count
        return totals

    def _traces(self) -> str:
        traces = self.traces
        reasons = ", ".join(f"{count} {reason}" for reason, count in traces.kept_by_reason.items())
        return (
            f"Traces  {traces.caused} requests and {traces.own} of the service's own start;"
            f" {traces.kept} kept ({reasons}), {traces.dropped} dropped\n"
            f"        {traces.failed} had a failure, {traces.failed_kept} of them kept"
        )

    def _funnel(self) -> str:
        steps = self.funnel.steps()
        widest = max(steps[0].count, 1)
        lines = []
        for step in steps:
            rate = "" if step.rate is None else f"{step.rate:.0%} of the step above"
            bar = "#" * round(30 * step.count / widest)
            lines.append(f"  {step.name:<16}{step.count:>6}  {bar:<31} {rate}".rstrip())
        return "\n".join(["Funnel (one query over both tables)", *lines])

    def _files(self) -> str:
        width = max(map(len, self.files))
        where = [f"  {name:<{width}}  {_short(path)}" for name, path in self.files.items()]
        return "\n".join(["Files", *where, "", "Try next", *(f"  {command}" for command in try_next(self.files))])

    def _verdict(self) -> str:
        day = f"{self.requests} requests in {self.seconds:.0f} s"
        problems = self.problems()
        if not problems:
            rows, places, checks = len(self.rows), len(DESTINATIONS), len(self.checks)
            return f"{day}. Everything adds up: {rows} events at {places} destinations, {checks} checks."
        return "\n".join([f"{day}. It does NOT add up:", *(f"  {problem}" for problem in problems)])


def try_next(files: Mapping[str, Path]) -> list[str]:
    """Commands that show more."""
    log, database, state = (_short(files[name]) for name in ("structured log", "database", "state directory"))
    caseyos_otel = _short(Path(sys.executable).parent / "caseyos-otel")
    query = "SELECT event, count(*), round(avg(time_to_reply_hours), 1) FROM outcome_events GROUP BY event"
    return [
        f"head -3 {log}",
        f"grep -c action_failed {log}",
        f"python3 -c \"import sqlite3; print(*sqlite3.connect('{database}').execute('{query}'), sep='\\n')\"",
        f"CASEYOS_OTEL_STATE_DIR={state} {caseyos_otel} doctor",
        f"{caseyos_otel} events show outcome_reply_received",
        "make demo ARGS='--recommendations 200 --seed 8'",
        "make test",
    ]


def _short(path: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; the first and the last to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = []
    for first, *numbers, last in lines:
        cells = [first.ljust(widths[0]), *map(str.rjust, numbers, widths[1:-1]), last]
        shown.append("  ".join(cells))
    rule = "-" * max(map(len, shown))
    return "\n".join([shown[0], rule, *shown[1:-1], rule, shown[-1]])
