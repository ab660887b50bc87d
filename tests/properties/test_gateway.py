"""Whatever is sent: no error of ours, and what was acknowledged is stored or set aside, each event once."""

from __future__ import annotations

import base64
import gzip
import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import uvicorn
import zstandard
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs

from caseyos_otel.events.registry import registry
from caseyos_otel.gateway.app import create_app
from caseyos_otel.otlp.decode import decode
from caseyos_otel.pipeline import set_aside
from caseyos_otel.settings import load

PROTOBUF, JSON = "application/x-protobuf", "application/json"
REFUSED_FOR_GOOD = {400, 413, 415}
LIMIT = 4096
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "identity": bytes,
}


class Sent:
    """A gateway, and the ids of the events that it has acknowledged."""

    def __init__(self, state: Path, **more: str) -> None:
        variables = {
            "CASEYOS_OTEL_STATE_DIR": str(state),
            "CASEYOS_OTEL_LOG": str(state / "log"),
            "CASEYOS_OTEL_GATEWAY_RATE": "0",
            "CASEYOS_OTEL_GATEWAY_MAX_BYTES": str(LIMIT),
            **more,
        }
        self.settings = load(variables)
        self.app = create_app(self.settings)
        self._server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self.client = httpx.Client()
        self.acknowledged: set[str] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.02)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.client.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join()

    def post(self, path: str, body: bytes, kind: str, encoding: str = "identity") -> int:
        headers = {"content-type": kind, "content-encoding": encoding}
        answer = self.client.post(path, content=body, headers=headers)
        assert answer.status_code == 200 or answer.status_code in REFUSED_FOR_GOOD, answer.text
        return answer.status_code

    def stored(self) -> set[str]:
        with sqlite3.connect(self.settings.state_dir / "caseyos.db") as connection:
            rows = connection.execute(
                "SELECT event_id FROM outcome_events UNION ALL SELECT event_id FROM events"
            ).fetchall()
        ids = [row[0] for row in rows]
        assert len(ids) == len(set(ids))
        return set(ids)

    def aside(self) -> set[str]:
        entries = [e for path in set_aside.files(self.settings.spool_path) for e in set_aside.entries(path)]
        return {r.event_id for e in entries if e["event"] for r in decode(base64.b64decode(e["otlp"]), registry)}


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    made = Sent(tmp_path_factory.mktemp("gateway"))
    with made:
        yield made
    # the gateway has ended, and drained what it had
    assert made.acknowledged
    missing = made.acknowledged - made.stored() - made.aside()
    assert not missing
    assert list(made.settings.spool_path.rglob("*.seg")) == []


quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(max_size=20)
scalars = st.one_of(
    texts.map(lambda v: AnyValue(string_value=v)),
    st.booleans().map(lambda v: AnyValue(bool_value=v)),
    st.integers(-(2**63), 2**63 - 1).map(lambda v: AnyValue(int_value=v)),
    st.floats().map(lambda v: AnyValue(double_value=v)),
    st.binary(max_size=10).map(lambda v: AnyValue(bytes_value=v)),
)
FIELDS = [field.attribute for declaration in registry for field in declaration.fields]
NAMES = [declaration.otel_name for declaration in registry]


@st.composite
def records(draw: st.DrawFn) -> LogRecord:
    keys = draw(st.lists(st.sampled_from(FIELDS) | texts, max_size=5))
    return LogRecord(
        time_unix_nano=draw(st.integers(0, 2**64 - 1)),
        observed_time_unix_nano=draw(st.integers(0, 2**64 - 1)),
        event_name=draw(st.sampled_from(NAMES) | texts),
        severity_number=draw(st.integers(0, 30)),
        trace_id=draw(st.binary(max_size=20)),
        span_id=draw(st.binary(max_size=10)),
        flags=draw(st.integers(0, 2**32 - 1)),
        body=draw(scalars),
        attributes=[KeyValue(key=key, value=draw(scalars)) for key in keys],
    )


requests = st.lists(records(), max_size=4).map(
    lambda found: ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=found)])])
)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes cut short, with bits flipped, or with others put in."""
    body = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        match draw(st.sampled_from(["cut", "flip", "insert"])):
            case "cut":
                del body[at:]
            case "flip" if at < len(body):
                body[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                body[at:at] = draw(st.binary(max_size=6))
    return bytes(body)


def events_in(body: bytes) -> set[str]:
    """The ids of the declared events in a request; empty where it is none. A record's derived id is its content's."""
    try:
        ExportLogsServiceRequest.FromString(body)
    except DecodeError:
        return set()
    return {record.event_id for record in decode(body, registry)}


@quick
@given(body=damaged(requests.map(lambda r: r.SerializeToString())), encoding=st.sampled_from(list(COMPRESS)))
def test_damaged_requests(sent: Sent, body: bytes, encoding: str) -> None:
    if sent.post("/v1/logs", COMPRESS[encoding](body), PROTOBUF, encoding) == 200:
        sent.acknowledged |= events_in(body)


@quick
@given(
    body=damaged(requests.map(lambda r: r.SerializeToString()).map(gzip.compress)),
    kind=st.sampled_from([PROTOBUF, JSON, "text/plain", ""]),
    encoding=st.sampled_from([*COMPRESS, "br", "gzip, gzip", ""]),
    path=st.sampled_from(["/v1/logs", "/v1/traces"]),
)
def test_damaged_compression(sent: Sent, body: bytes, kind: str, encoding: str, path: str) -> None:
    # what the damage left readable is what the sender is told of: ids are taken from the same bytes
    if sent.post(path, body, kind, encoding) == 200 and kind == PROTOBUF and path == "/v1/logs":
        sent.acknowledged |= events_in(_inflated(body, encoding))


def _inflated(body: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(body) if body else b""
    return body if encoding in ("", "identity") else b""


@quick
@given(request=requests, cut=st.integers(0, 40))
def test_json(sent: Sent, request: ExportLogsServiceRequest, cut: int) -> None:
    document = json.loads(json_format.MessageToJson(request))
    for record in document.get("resourceLogs", [{}])[0].get("scopeLogs", [{}])[0].get("logRecords", ()):
        for name in record.keys() & {"traceId", "spanId"}:
            record[name] = base64.b64decode(record[name]).hex()
    text = json.dumps(document)
    status = sent.post("/v1/logs", text[: len(text) - cut].encode(), JSON)
    whole = all(
        len(r.trace_id) in (0, 16) and len(r.span_id) in (0, 8)
        for r in request.resource_logs[0].scope_logs[0].log_records
    )
    assert status in ((200,) if whole and not cut and len(text) <= LIMIT else (200, 400, 413))
    if status == 200 and not cut:
        sent.acknowledged |= events_in(request.SerializeToString())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["resourceLogs", "resourceSpans", "scopeLogs", "scopeSpans", "logRecords", "spans", "attributes", "key", "value",
         "stringValue", "intValue", "arrayValue", "values", "traceId", "spanId", "links", "timeUnixNano", "eventName"]
    ), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@quick
@given(document=json_values, path=st.sampled_from(["/v1/logs", "/v1/traces"]))
def test_json_of_any_shape(sent: Sent, document: Any, path: str) -> None:
    sent.post(path, json.dumps(document).encode(), JSON)


@quick
@given(body=damaged(requests.map(lambda r: r.SerializeToString())) | st.binary(max_size=200))
def test_anything_as_traces(sent: Sent, body: bytes) -> None:
    status = sent.post("/v1/traces", body, PROTOBUF)
    try:
        ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        assert status == 400
    else:
        assert status == 200


@quick
@given(depth=st.integers(1, 300), wide=st.integers(1, 3), kvlist=st.booleans())
def test_nested_values(sent: Sent, depth: int, wide: int, kvlist: bool) -> None:
    from caseyos_otel.otlp import wire

    value = wire.any_value("bottom")
    for _ in range(depth):
        inner = wire.delimited(1, wire.delimited(2, value) if kvlist else value)
        value = wire.delimited(6 if kvlist else 5, inner * (wide if len(value) < 200 else 1))
    record = wire.delimited(12, NAMES[0].encode()) + wire.delimited(
        6, wire.delimited(1, b"k") + wire.delimited(2, value)
    )
    body = wire.delimited(1, wire.delimited(2, wire.delimited(2, record)))
    if sent.post("/v1/logs", body, PROTOBUF) == 200:
        sent.acknowledged |= events_in(body)
