"""Prometheus' text format, of one process and of several."""

from __future__ import annotations

from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

from caseyos_otel.gateway.exposition import Family, families, leave, left_by_siblings, text, together


def test_counters_gauges_and_histograms_are_written_as_prometheus_reads_them() -> None:
    reader = InMemoryMetricReader()
    view = View(instrument_name="took", aggregation=ExplicitBucketHistogramAggregation([1.0, 5.0]))
    meter = MeterProvider([reader], views=[view], shutdown_on_exit=False).get_meter("test")
    counter = meter.create_counter("acme.things", "{thing}", "Things\nthat  happen.")
    counter.add(2, {"kind": 'a "b"\\c\n'})
    meter.create_up_down_counter("acme.size", "By").add(7)
    for value in (0.5, 3, 9):
        meter.create_histogram("took", "s", "How long.").record(value, {"of": "x"})
    assert text(families(reader.get_metrics_data())) == (
        "# HELP acme_things_total Things that happen.\n# TYPE acme_things_total counter\n"
        'acme_things_total{kind="a \\"b\\"\\\\c\\n"} 2\n'
        "# HELP acme_size_bytes acme_size_bytes\n# TYPE acme_size_bytes gauge\nacme_size_bytes 7\n"
        "# HELP took_seconds How long.\n# TYPE took_seconds histogram\n"
        'took_seconds_bucket{of="x",le="1.0"} 1\ntook_seconds_bucket{of="x",le="5.0"} 2\n'
        'took_seconds_bucket{of="x",le="+Inf"} 3\n'
        'took_seconds_sum{of="x"} 12.5\ntook_seconds_count{of="x"} 3\n'
    )


def test_several_processes_add_counters_and_show_the_largest_gauge() -> None:
    first = [
        Family("a_total", "counter", "A.", {"a_total": 1, 'a_total{x="1"}': 2}),
        Family("g", "gauge", "G.", {"g": 5}),
    ]
    second = [Family("a_total", "counter", "A.", {"a_total": 10}), Family("g", "gauge", "G.", {"g": 3})]
    assert together([first, second]) == [
        Family("a_total", "counter", "A.", {"a_total": 11, 'a_total{x="1"}': 2}),
        Family("g", "gauge", "G.", {"g": 5}),
    ]


def test_siblings_leave_theirs_and_do_not_count_themselves_twice(tmp_path: Path) -> None:
    leave(tmp_path, [Family("a_total", "counter", "A.", {"a_total": 1})])
    assert list(left_by_siblings(tmp_path)) == []
    (own,) = tmp_path.glob("*.json")
    own.rename(tmp_path / "1.json")
    (tmp_path / "2.json").write_text("cut sho")
    assert list(left_by_siblings(tmp_path)) == [[Family("a_total", "counter", "A.", {"a_total": 1})]]
