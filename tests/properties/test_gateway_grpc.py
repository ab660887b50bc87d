"""Whatever is sent to the gRPC port: no error of ours, no end of it, and what was acknowledged is stored or set aside once.

Frames go out by hand: no gRPC library would send a message cut short, a wrong length, or a stream that does not inflate.
"""

from __future__ import annotations

import base64
import gzip
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from caseyos_otel.events.registry import registry
from caseyos_otel.otlp import wire
from caseyos_otel.otlp.decode import decode
from caseyos_otel.pipeline import set_aside
from tests.e2e.gateway import Gateway, reply, request_of, serving
from tests.e2e.service import rows, wait_for
from tests.properties.test_gateway import NAMES, damaged, events_in, quick, requests

OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 8, 12, 13
LIMIT = 64 * 1024
slow = settings(quick, max_examples=50)
"""Where grpc itself answers with an error, it takes a tenth of a second and more."""
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Answer(NamedTuple):
    """`code` is None where the stream ended without one (reset, refused by HTTP, connection closed)."""

    code: int | None
    message: str = ""
    body: bytes = b""


class Sender:
    """One HTTP/2 connection, made again when the other side has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self._socket.sendall(self._h2.data_to_send())

    def call(self, path: str, body: bytes, *more: tuple[str, str]) -> Answer:
        """Send one stream whose data is exactly `body`, frame header of gRPC included."""
        try:
            return self._call(path, body, more)
        except (OSError, h2.exceptions.ProtocolError):
            self.close()
            self._connect()
            return Answer(None)

    def _call(self, path: str, body: bytes, more: tuple[tuple[str, str], ...]) -> Answer:
        stream = self._h2.get_next_available_stream_id()
        named = dict(more)
        head = {
            ":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost", "te": "trailers",
            "content-type": "application/grpc", **named,
        }  # fmt: skip
        self._h2.send_headers(stream, list(head.items()))
        answer = self._send(stream, body)
        while answer is None:
            answer = self._receive(stream)
        return answer

    def _send(self, stream: int, body: bytes) -> Answer | None:
        """Within the window that the other side gives; its answer, where it answers before everything was sent."""
        whole = is_whole(body)
        self._found: dict[str, str] = {}
        self._body = b""
        while body:
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if room:
                self._h2.send_data(stream, body[:room])
                body = body[room:]
            self._socket.sendall(self._h2.data_to_send())
            if not room and (answer := self._receive(stream)):
                return answer
        if whole:
            self._h2.end_stream(stream)
        else:  # grpc would wait for the rest as long as we do
            self._h2.reset_stream(stream)
        self._socket.sendall(self._h2.data_to_send())
        return None if whole else Answer(None)

    def _receive(self, stream: int) -> Answer | None:
        data = self._socket.recv(65_536)
        if not data:
            raise ConnectionError
        ended = False
        for event in self._h2.receive_data(data):
            if getattr(event, "stream_id", None) != stream:
                continue
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self._found |= {_text(name): _text(value) for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                self._body += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                ended = True
        self._socket.sendall(self._h2.data_to_send())
        if not ended:
            return None
        code = self._found.get("grpc-status")
        return Answer(None if code is None else int(code), self._found.get("grpc-message", ""), self._body[5:])

    def close(self) -> None:
        self._socket.close()


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class Sent:
    """A gateway, a sender, and the ids of the events that were acknowledged."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.sender = Sender(gateway.grpc_port)
        self.acknowledged: set[str] = set()

    def export(self, request: bytes, path: str = LOGS, **more: str) -> Answer:
        """A request in a frame as it should be."""
        answer = self.sender.call(path, framed(request), *more.items())
        if answer.code == OK and path == LOGS:
            rejected = ExportLogsServiceResponse.FromString(answer.body).partial_success.rejected_log_records
            assert not rejected or any(len(name) > 256 for name in names_in(request))
            self.acknowledged |= events_in(request) if not rejected else set()
        return answer

    def arrived(self) -> bool:
        return not self.acknowledged - self._stored() - self._aside()

    def _stored(self) -> set[str]:
        found = rows(self.gateway.state, "SELECT event_id FROM outcome_events UNION ALL SELECT event_id FROM events")
        ids = [row[0] for row in found]
        assert len(ids) == len(set(ids))
        return set(ids)

    def _aside(self) -> set[str]:
        spool = self.gateway.state / "spool" / "gateway"
        entries = [e for path in set_aside.files(spool) for e in set_aside.entries(path) if e["event"]]
        return {r.event_id for e in entries for r in decode(base64.b64decode(e["otlp"]), registry)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.close()


def names_in(request: bytes) -> set[str]:
    with suppress(DecodeError):
        parsed = ExportLogsServiceRequest.FromString(request)
        return {r.event_name for rl in parsed.resource_logs for sl in rl.scope_logs for r in sl.log_records}
    return set()


def is_whole(body: bytes) -> bool:
    """Whether the message is as long as the frame says, or longer than anybody takes."""
    length = int.from_bytes(body[1:5], "big") if len(body) >= 5 else LIMIT
    return len(body) - 5 >= length or length > LIMIT


def framed(message: bytes, compressed: int = 0, length: int | None = None) -> bytes:
    """Length-prefixed message of gRPC over HTTP/2."""
    return struct.pack(">BI", compressed, len(message) if length is None else length) + message


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    variables = {"CASEYOS_OTEL_GATEWAY_RATE": "0", "CASEYOS_OTEL_GATEWAY_MAX_BYTES": str(LIMIT)}
    with serving(tmp_path_factory.mktemp("gateway") / "state", **variables) as gateway, Sent(gateway) as made:
        first = gateway.process
        yield made
        assert made.export(request_of(reply("last")).SerializeToString()).code == OK
        assert gateway.process is first
        wait_for(made.arrived, "not stored:", lambda: made.acknowledged)
        assert gateway.stop() == 0
        assert made.acknowledged
        assert "Traceback" not in gateway.log.read_text()


@quick
@given(body=damaged(requests.map(lambda r: r.SerializeToString())) | st.binary(max_size=200))
def test_damaged_requests(sent: Sent, body: bytes) -> None:
    answer = sent.export(body)
    try:
        ExportLogsServiceRequest.FromString(body)
    except DecodeError:
        assert answer.code == INVALID_ARGUMENT
    else:
        assert answer.code == OK


@quick
@given(body=damaged(requests.map(lambda r: r.SerializeToString())) | st.binary(max_size=200))
def test_anything_as_traces(sent: Sent, body: bytes) -> None:
    assert sent.export(body, TRACES).code in (OK, INVALID_ARGUMENT)


@quick
@given(depth=st.integers(1, 2000), kvlist=st.booleans())
def test_nested_values(sent: Sent, depth: int, kvlist: bool) -> None:
    value = wire.any_value("bottom")
    for _ in range(depth):
        value = wire.delimited(6 if kvlist else 5, wire.delimited(1, wire.delimited(2, value) if kvlist else value))
    attribute = wire.delimited(6, wire.delimited(1, b"k") + wire.delimited(2, value))
    record = wire.delimited(12, NAMES[0].encode()) + attribute
    answer = sent.export(wire.delimited(1, wire.delimited(2, wire.delimited(2, record))))
    assert answer.code in (OK, INVALID_ARGUMENT)
    assert answer.code == OK or depth > 20


COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}


@slow
@given(
    request=requests.map(lambda r: r.SerializeToString()), encoding=st.sampled_from([*COMPRESS, "br", "", "gzip, gzip"]),
    data=st.data(), flag=st.integers(0, 3), length=st.none() | st.integers(0, 300) | st.sampled_from([LIMIT + 1, 2**32 - 1]),
)  # fmt: skip
def test_damaged_frames_and_compression(
    sent: Sent, request: bytes, encoding: str, data: st.DataObject, flag: int, length: int | None
) -> None:
    """grpc itself answers these, INTERNAL to a message that does not inflate; that they never reach us as something else
    is what is tested, and that the next request is taken."""
    message = data.draw(damaged(st.just(COMPRESS.get(encoding, bytes)(request))))
    answer = sent.sender.call(LOGS, framed(message, flag, length), ("grpc-encoding", encoding))
    assert answer.code in (None, OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL)
    assert "Unexpected" not in answer.message  # how grpc says that a handler raised
    assert sent.export(request).code == OK


@slow
@given(
    name=st.from_regex(r"[a-z][a-z0-9-]{0,20}(-bin)?", fullmatch=True) | st.just("authorization"),
    value=st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60),
    method=st.sampled_from([LOGS, TRACES, LOGS.replace("Export", "Import"), "/", "", "/a/b", LOGS + "/more"]),
)
def test_any_metadata_and_path(sent: Sent, name: str, value: str, method: str) -> None:
    answer = sent.sender.call(method, framed(b""), (name, value))
    assert answer.code in (None, OK, UNIMPLEMENTED, INTERNAL, INVALID_ARGUMENT)
    assert "Unexpected" not in answer.message
    assert sent.export(b"").code == OK


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_what_is_huge_is_refused_for_good(sent: Sent, compress: Any) -> None:
    for size in (LIMIT + 1, 2 * LIMIT, 20 * 2**20):
        packed = compress(bytes(size))
        answer = sent.sender.call(LOGS, framed(packed, int(compress is not bytes)), ("grpc-encoding", "gzip"))
        assert answer.code in (RESOURCE_EXHAUSTED, None)
        assert sent.export(request_of(reply(f"{size}")).SerializeToString()).code == OK
