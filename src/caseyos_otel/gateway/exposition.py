"""OpenTelemetry's metrics in Prometheus' text format (version 0.0.4), of one process or of several together."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from opentelemetry.sdk.metrics.export import HistogramDataPoint, Metric, MetricsData, Sum

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_]+")
_UNITS: Final = {"s": "seconds", "ms": "milliseconds", "h": "hours", "By": "bytes"}


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its samples by name with labels, as they stand in a line."""

    name: str
    kind: str
    help: str
    samples: dict[str, float]


def families(data: MetricsData | None) -> list[Family]:
    """What a metric reader collected."""
    resources = data.resource_metrics if data is not None else ()
    return [_family(metric) for resource in resources for scope in resource.scope_metrics for metric in scope.metrics]


def text(found: Iterable[Family]) -> str:
    """The lines that Prometheus reads."""
    return "".join(
        f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
        + "".join(f"{sample} {value}\n" for sample, value in family.samples.items())
        for family in found
    )


def together(processes: Iterable[Iterable[Family]]) -> list[Family]:
    """Several processes as one: counters and histograms added, of gauges the largest (they look at one spool)."""
    merged: dict[str, Family] = {}
    for family in (family for process in processes for family in process):
        into = merged.setdefault(family.name, Family(family.name, family.kind, family.help, {}))
        for sample, value in family.samples.items():
            known = into.samples.get(sample, 0)
            into.samples[sample] = max(known, value) if family.kind == "gauge" else known + value
    return list(merged.values())


def leave(folder: Path, found: Iterable[Family]) -> None:
    """Leave this process's metrics for its siblings. They stay when it ends, so that no sum ever falls."""
    path = folder / f"{os.getpid()}.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps([asdict(family) for family in found]), "utf-8")
    fresh.replace(path)


def left_by_siblings(folder: Path) -> Iterator[list[Family]]:
    """What other processes have left."""
    for path in sorted(folder.glob("*.json")):
        if path.stem != str(os.getpid()):
            with suppress(OSError, ValueError):
                yield [Family(**family) for family in json.loads(path.read_text("utf-8"))]


def _family(metric: Metric) -> Family:
    data: Any = metric.data
    points = list(data.data_points)
    base = _name(metric)
    help_ = " ".join((metric.description or base).split()).replace("\\", "\\\\")
    if points and isinstance(points[0], HistogramDataPoint):
        return Family(base, "histogram", help_, dict(sample for point in points for sample in _histogram(base, point)))
    counter = isinstance(data, Sum) and data.is_monotonic
    name = f"{base}_total" if counter else base
    samples = {f"{name}{_labels((point.attributes or {}).items())}": point.value for point in points}
    return Family(name, "counter" if counter else "gauge", help_, samples)


def _name(metric: Metric) -> str:
    unit = _UNITS.get(metric.unit or "", "")
    plain = _NOT_IN_NAMES.sub("_", metric.name)
    return f"{plain}_{unit}" if unit and not plain.endswith(unit) else plain


def _histogram(name: str, point: HistogramDataPoint) -> Iterator[tuple[str, float]]:
    attributes = list((point.attributes or {}).items())
    so_far = 0
    for bound, count in zip([*point.explicit_bounds, "+Inf"], point.bucket_counts, strict=True):
        so_far += count
        yield f"{name}_bucket{_labels([*attributes, ('le', bound)])}", so_far
    yield f"{name}_sum{_labels(attributes)}", point.sum
    yield f"{name}_count{_labels(attributes)}", point.count


def _labels(attributes: Iterable[tuple[str, Any]]) -> str:
    pairs = [f'{_NOT_IN_NAMES.sub("_", key)}="{_escaped(str(value))}"' for key, value in attributes]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
