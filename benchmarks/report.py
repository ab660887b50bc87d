"""From rounds to tables: medians over rounds, and the ratios of ours to each peer within a round."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from benchmarks.child import percentile
from benchmarks.subjects import OURS

Round = Mapping[str, Mapping[str, float]]
"""Subject → what was measured of it, in µs."""

_MEASURES: Final = (
    ("caller_us", "CPU of the caller, median"),
    ("p99_us", "wall time of the call, p99"),
    ("late_p99_us", "lateness of the paced caller, p99"),
    ("p50_us", "wall time of the call, median"),
    ("behind_us", "CPU behind the call"),
)
_PACKAGES: Final = ("opentelemetry-sdk", "sentry-sdk", "logfire", "structlog")


def as_json(rounds: Sequence[Round], missing: Sequence[str], rate: float) -> dict[str, Any]:
    """Everything: environment, medians and ratios with their spread, and the rounds themselves."""
    return {
        "python": platform.python_version(),
        "versions": {package: found for package in _PACKAGES if (found := _version(package))},
        "missing": list(missing),
        "rate": rate,
        "subjects": {
            name: {
                measure: {"median": _median(rounds, name, measure), "ratio": _ratio(rounds, name, measure)}
                for measure, _ in _MEASURES
            }
            for name in rounds[0]
        },
        "rounds": [{name: dict(measured) for name, measured in each.items()} for each in rounds],
    }


def as_text(rounds: Sequence[Round], missing: Sequence[str], rate: float) -> str:
    """The tables."""
    packages = ", ".join(f"{package} {found}" for package in _PACKAGES if (found := _version(package)))
    head = f"Python {platform.python_version()}, {packages}; {len(rounds)} rounds, interleaved; {rate:,.0f} events a second"
    notes = [f"NOT MEASURED: {package} is not installed (pip install {package})" for package in missing]
    return "\n\n".join([head, *(_table(rounds, measure, title) for measure, title in _MEASURES), *notes])


def _table(rounds: Sequence[Round], measure: str, title: str) -> str:
    rows = [f"{title:<34}{'µs':>9}   ours / it   (p10 to p90 over rounds)"]
    for name in rounds[0]:
        ratio = _ratio(rounds, name, measure)
        shown = f"{ratio['median']:>9.2f}   ({ratio['p10']:.2f} to {ratio['p90']:.2f})" if name != OURS else ""
        rows.append(f"  {name:<32}{_median(rounds, name, measure):>9.2f}   {shown}".rstrip())
    return "\n".join(rows)


def _median(rounds: Sequence[Round], name: str, measure: str) -> float:
    return statistics.median(each[name][measure] for each in rounds)


def _ratio(rounds: Sequence[Round], name: str, measure: str) -> dict[str, float]:
    of: Callable[[Round], float] = lambda each: each[OURS][measure] / max(each[name][measure], 1e-9)  # noqa: E731
    ratios = [of(each) for each in rounds]
    return {"median": statistics.median(ratios), "p10": percentile(ratios, 10), "p90": percentile(ratios, 90)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
