"""What the gateway answers: OTLP's own rules for both protocols, its limits, its tokens."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import zstandard
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from caseyos_otel.otlp import wire
from tests.e2e.gateway import SERVE, Gateway, reply, request_of, serving
from tests.e2e.service import environment, rows, wait_for
from tests.ports import free_port

INGEST = "ingest-0123456789abcdef"
ADMIN = "admin-0123456789abcdef"
BEARER = {"Authorization": f"Bearer {INGEST}"}
LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    variables = {
        "CASEYOS_OTEL_INGEST_TOKEN": INGEST,
        "CASEYOS_OTEL_ADMIN_TOKEN": ADMIN,
        "CASEYOS_OTEL_GATEWAY_MAX_BYTES": str(LIMIT),
    }
    with serving(tmp_path_factory.mktemp("gateway") / "state", **variables) as running:
        yield running


def stored(gateway: Gateway, name: str) -> bool:
    found = rows(gateway.state, f"SELECT count(*) FROM outcome_events WHERE recommendation_id = '{name}'")
    return bool(found) and found[0][0] == 1


def body(*names: str) -> bytes:
    return bytes(request_of(*(reply(name) for name in names)).SerializeToString())


ZSTD_STREAM = zstandard.ZstdCompressor().compressobj


def zstd_without_size(data: bytes) -> bytes:
    stream = ZSTD_STREAM()
    return stream.compress(data) + stream.flush()


COMPRESS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip in two members": ("gzip", lambda data: gzip.compress(data[:40]) + gzip.compress(data[40:])),
    "deflate": ("deflate", zlib.compress),
    "zstd": ("zstd", zstandard.ZstdCompressor().compress),
    "zstd of unknown size": ("zstd", zstd_without_size),
    "nothing": ("identity", bytes),
}


class TestEncodings:
    @pytest.mark.parametrize("way", COMPRESS)
    def test_each_is_taken(self, gateway: Gateway, way: str) -> None:
        encoding, compress = COMPRESS[way]
        name = way.replace(" ", "-")
        answer = gateway.post("/v1/logs", compress(body(name)), Content_Encoding=encoding, **BEARER)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-protobuf")
        assert not ExportLogsServiceResponse.FromString(answer.body).HasField("partial_success")
        wait_for(lambda: stored(gateway, f"r{name}"), f"{way} is not stored", gateway.log.read_text)

    @pytest.mark.parametrize("way", [way for way in COMPRESS if way != "nothing"])
    @pytest.mark.parametrize(
        "damage", [lambda z: z[:-1], lambda z: z[: len(z) // 2], lambda z: b"", lambda z: b"\0" + z]
    )
    def test_what_is_damaged_is_refused_for_good(self, gateway: Gateway, way: str, damage: Any) -> None:
        encoding, compress = COMPRESS[way]
        answer = gateway.post("/v1/logs", damage(compress(body("never"))), Content_Encoding=encoding, **BEARER)
        if answer.status == 200:  # nothing at all is a request without records
            assert damage(b"x") == b""
        else:
            assert (answer.status, Status.FromString(answer.body).code) == (400, 3)

    @pytest.mark.parametrize("way", [way for way in COMPRESS if way != "nothing"])
    def test_a_bomb_is_refused_and_not_inflated(self, gateway: Gateway, way: str) -> None:
        encoding, compress = COMPRESS[way]
        bomb = compress(b"\0" * (48 * 2**20))
        before = resident(gateway)
        answer = gateway.post("/v1/logs", bomb[:LIMIT], Content_Encoding=encoding, **BEARER)
        assert answer.status == 413
        assert resident(gateway) - before < 16 * 2**20

    def test_an_unknown_encoding_is_named(self, gateway: Gateway) -> None:
        answer = gateway.post("/v1/logs", body("never"), Content_Encoding="br", **BEARER)
        assert answer.status == 415
        assert "gzip, deflate, zstd" in Status.FromString(answer.body).message

    def test_an_unknown_type_is_named(self, gateway: Gateway) -> None:
        answer = gateway.post("/v1/logs", b"event=1", "application/x-www-form-urlencoded", **BEARER)
        assert answer.status == 415
        assert "application/json" in Status.FromString(answer.body).message


def resident(gateway: Gateway) -> int:
    assert gateway.process is not None
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


class TestBodies:
    def test_json_written_by_hand(self, gateway: Gateway) -> None:
        document = {
            "resourceLogs": [
                {
                    "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
                    "scopeLogs": [
                        {
                            "scope": {"name": "by hand"},
                            "logRecords": [
                                {
                                    "timeUnixNano": "1769178600123456789",
                                    "severityNumber": 9,
                                    "eventName": "caseyos.outcome.reply_received",
                                    "traceId": "5B8EFFF798038103D269B633813FC60C",
                                    "spanId": "eee19b7ec3c1b174",
                                    "notInOtlp": {"ignored": True},
                                    "attributes": [
                                        {"key": "caseyos.recommendation.id", "value": {"stringValue": "by-hand"}},
                                        {"key": "caseyos.draft.id", "value": {"stringValue": "d1"}},
                                        {"key": "traceId", "value": {"stringValue": "stays as it is"}},
                                    ],
                                }
                            ],
                        }
                    ],
                }
            ]
        }
        answer = gateway.post("/v1/logs", json.dumps(document).encode(), "application/json; charset=utf-8", **BEARER)
        assert (answer.status, answer.headers["Content-Type"], json.loads(answer.body)) == (200, "application/json", {})
        wait_for(lambda: stored(gateway, "by-hand"), "not stored:", gateway.log.read_text)
        columns = "trace_id, span_id, occurred_at, service_name"
        (row,) = rows(gateway.state, f"SELECT {columns} FROM outcome_events WHERE recommendation_id = 'by-hand'")
        assert row == (
            "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174", "2026-01-23 14:30:00.123456", "shop",
        )  # fmt: skip

    @pytest.mark.parametrize(
        "text",
        [
            "", "[]", "3", "null", '{"resourceLogs": 3}', '{"resourceLogs": [{"scopeLogs": [{"logRecords": [7]}]}]}',
            '{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": "xyz"}]}]}]}',
            '{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "1e400"}]}]}]}', "[" * 30_000, "\x00",
            '{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":' + '{"arrayValue":{"values":[' * 500,
        ],
    )  # fmt: skip
    def test_json_of_another_shape_is_refused_for_good(self, gateway: Gateway, text: str) -> None:
        answer = gateway.post("/v1/logs", text.encode(), "application/json", **BEARER)
        assert (answer.status, answer.headers["Content-Type"]) == (400, "application/json")
        assert json.loads(answer.body)["code"] == 3

    def test_what_is_nested_too_deeply_is_refused_for_good(self, gateway: Gateway) -> None:
        value = AnyValue(string_value="bottom").SerializeToString()
        for _ in range(400):
            value = wire.delimited(5, wire.delimited(1, value))  # an array of one
        request = wire.delimited(1, wire.delimited(2, wire.delimited(2, wire.delimited(5, value))))
        answer = gateway.post("/v1/logs", request, **BEARER)
        assert (answer.status, Status.FromString(answer.body).code) == (400, 3)

    def test_a_body_that_is_too_large_is_refused_for_good(self, gateway: Gateway) -> None:
        answer = gateway.post("/v1/logs", bytes(LIMIT + 1), **BEARER)
        assert answer.status == 413

    def test_records_that_cannot_be_used_are_told_from_the_others(self, gateway: Gateway) -> None:
        request = request_of(reply("beside"), {"event_name": "x" * 300})
        answer = gateway.post("/v1/logs", request.SerializeToString(), **BEARER)
        partial = ExportLogsServiceResponse.FromString(answer.body).partial_success
        assert (answer.status, partial.rejected_log_records) == (200, 1)
        assert "256 characters" in partial.error_message
        wait_for(lambda: stored(gateway, "rbeside"), "not stored:", gateway.log.read_text)

    @pytest.mark.parametrize("signal", ["logs", "traces"])
    def test_more_records_than_anybody_sends_are_refused_for_good(self, tmp_path: Path, signal: str) -> None:
        many = wire.delimited(1, wire.delimited(2, b"\x12\x00" * 100_001))
        with serving(tmp_path / "state") as gateway:
            assert gateway.post(f"/v1/{signal}", many).status == 413

    def test_an_empty_request_is_one(self, gateway: Gateway) -> None:
        assert gateway.post("/v1/logs", b"", **BEARER).status == 200
        assert gateway.post("/v1/traces", b"", **BEARER).status == 200

    def test_other_paths_and_methods_are_told(self, gateway: Gateway) -> None:
        assert gateway.get("/v1/logs", **BEARER).status == 405
        assert gateway.post("/v1/metrics", b"", **BEARER).status == 404


class TestTokens:
    @pytest.mark.parametrize(
        "given", ["", "Bearer", f"Bearer {ADMIN}", f"Basic {INGEST}", f"Bearer {INGEST}x", "Bearer ü"]
    )
    def test_another_token_than_ingest_opens_nothing(self, gateway: Gateway, given: str) -> None:
        headers = {"Authorization": given.encode().decode("latin-1")} if given else {}
        answer = gateway.post("/v1/logs", body("never"), **headers)
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert Status.FromString(answer.body).code == 16

    def test_metrics_want_the_admin_token(self, gateway: Gateway) -> None:
        assert gateway.get("/metrics").status == 401
        assert gateway.get("/metrics", **BEARER).status == 401
        assert gateway.get("/metrics", Authorization=f"Bearer {ADMIN}").status == 200

    def test_probes_want_none(self, gateway: Gateway) -> None:
        assert gateway.get("/healthz").status == 200
        assert gateway.get("/readyz").status == 200

    def test_neither_token_nor_client_is_in_what_it_wrote(self, gateway: Gateway) -> None:
        gateway.post("/v1/logs", b"\xff", **BEARER)
        gateway.post("/v1/logs", body("x"), Authorization="Bearer wrong-token-of-somebody")
        written = gateway.log.read_text()
        for secret in (INGEST, ADMIN, "wrong-token"):
            assert secret not in written


def serve(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = environment(tmp_path, **variables)
    return subprocess.run(
        [SERVE, "serve", *arguments], env=env, capture_output=True, text=True, timeout=30, check=False
    )


class TestStart:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.com"])
    def test_it_does_not_leave_loopback_without_tokens(self, tmp_path: Path, host: str) -> None:
        done = serve(tmp_path, "--host", host, CASEYOS_OTEL_INGEST_TOKEN=INGEST)
        assert done.returncode == 1
        assert "set CASEYOS_OTEL_ADMIN_TOKEN" in done.stderr

    def test_two_tokens_that_are_one_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text(f"{INGEST}\n")
        done = serve(
            tmp_path, CASEYOS_OTEL_INGEST_TOKEN=INGEST, CASEYOS_OTEL_ADMIN_TOKEN_FILE=str(tmp_path / "token")
        )  # fmt: skip
        assert done.returncode == 1
        assert "are the same" in done.stderr
        assert INGEST not in done.stderr

    @pytest.mark.parametrize("name", ["CASEYOS_OTEL_INGEST_TOKEN", "CASEYOS_OTEL_ADMIN_TOKEN_FILE"])
    def test_a_token_that_was_not_accepted_does_not_open_the_door(self, tmp_path: Path, name: str) -> None:
        done = serve(tmp_path, **{name: "short"})
        assert done.returncode == 1
        assert name.removesuffix("_FILE") in done.stderr
        assert "Going on" not in done.stderr

    def test_without_any_destination_it_would_lose_what_it_acknowledges(self, tmp_path: Path) -> None:
        done = serve(tmp_path, CASEYOS_OTEL_DISABLED="1")
        assert done.returncode == 1
        assert "takes nothing while no destination is on (log: CASEYOS_OTEL_DISABLED;" in done.stderr

    def test_a_declaration_that_is_wrong_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "events.yaml").write_text("events:\n  signed:\n    otel: acme.signed\n    feilds: {}\n")
        done = serve(tmp_path, CASEYOS_OTEL_HOOKS=str(tmp_path / "events.yaml"))
        assert done.returncode == 1
        assert "events.yaml: events.signed: 'feilds' is not known here" in done.stderr

    def test_one_port_for_both_protocols_is_refused(self, tmp_path: Path) -> None:
        port = str(free_port())
        done = serve(tmp_path, "--port", port, "--grpc-port", port)
        assert done.returncode == 1
        assert f"--port and --grpc-port are both {port}" in done.stderr

    @pytest.mark.parametrize("option", ["--port", "--grpc-port"])
    def test_a_port_that_is_taken_is_named(self, gateway: Gateway, tmp_path: Path, option: str) -> None:
        taken = gateway.port if option == "--port" else gateway.grpc_port
        done = serve(tmp_path, "--port", str(free_port()), "--grpc-port", str(free_port()), option, str(taken))
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1 port {taken}" in done.stderr


def call(gateway: Gateway, request: bytes, *metadata: tuple[str, str]) -> bytes:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.logs.v1.LogsService/Export")
        answer: bytes = export(request, metadata=metadata, timeout=10)
        return answer


class TestGrpc:
    TOKEN = ("authorization", f"Bearer {INGEST}")

    def test_a_request_is_taken(self, gateway: Gateway) -> None:
        answer = ExportLogsServiceResponse.FromString(call(gateway, body("by-grpc"), self.TOKEN))
        assert not answer.HasField("partial_success")
        wait_for(lambda: stored(gateway, "rby-grpc"), "not stored:", gateway.log.read_text)

    @pytest.mark.parametrize(
        ("request_", "metadata", "code"),
        [
            (b"", (), grpc.StatusCode.UNAUTHENTICATED),
            (b"", (("authorization", f"Bearer {ADMIN}"),), grpc.StatusCode.UNAUTHENTICATED),
            (b"\xff\xff", (TOKEN,), grpc.StatusCode.INVALID_ARGUMENT),
            (bytes(LIMIT + 1), (TOKEN,), grpc.StatusCode.RESOURCE_EXHAUSTED),
        ],
    )
    def test_what_is_refused_for_good(
        self, gateway: Gateway, request_: bytes, metadata: Any, code: grpc.StatusCode
    ) -> None:
        with pytest.raises(grpc.RpcError) as raised:
            call(gateway, request_, *metadata)
        assert raised.value.code() is code
        assert retry_after(raised.value) is None

    def test_records_that_cannot_be_used_are_told_from_the_others(self, gateway: Gateway) -> None:
        request = request_of(reply("beside-grpc"), {"event_name": "x" * 300})
        answer = ExportLogsServiceResponse.FromString(call(gateway, request.SerializeToString(), self.TOKEN))
        assert answer.partial_success.rejected_log_records == 1

    def test_a_bomb_is_refused_and_not_inflated(self, gateway: Gateway) -> None:
        before = resident(gateway)
        with grpc.insecure_channel(
            f"127.0.0.1:{gateway.grpc_port}", options=[("grpc.max_send_message_length", -1)]
        ) as c:
            export = c.unary_unary("/opentelemetry.proto.collector.logs.v1.LogsService/Export")
            with pytest.raises(grpc.RpcError) as raised:
                export(bytes(48 * 2**20), metadata=[self.TOKEN], timeout=10, compression=grpc.Compression.Gzip)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert resident(gateway) - before < 16 * 2**20


def retry_after(error: Any) -> int | None:
    """Seconds of the RetryInfo in an error's details."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    for detail in Status.FromString(details).details if details else ():
        retry = RetryInfo()
        if detail.Unpack(retry):
            return int(retry.retry_delay.seconds)
    return None


class TestLimits:
    def test_a_client_that_sends_too_often_shall_come_again(self, tmp_path: Path) -> None:
        with serving(tmp_path / "state", CASEYOS_OTEL_GATEWAY_RATE="1") as gateway:
            answers = [gateway.post("/v1/logs", body(f"{n}")) for n in range(20)]
            refused = [answer for answer in answers if answer.status == 429]
            assert {answer.status for answer in answers} == {200, 429}
            assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
            with pytest.raises(grpc.RpcError) as raised:  # it is the same client over gRPC
                call(gateway, b"")
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert retry_after(raised.value) == 1

    def test_a_sender_that_is_slow_keeps_others_out_for_a_while(self, tmp_path: Path) -> None:
        with serving(tmp_path / "state", CASEYOS_OTEL_GATEWAY_CONCURRENCY="1") as gateway, socket.socket() as slow:
            slow.connect(("127.0.0.1", gateway.port))
            head = (
                "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 3\r\n\r\n"
            )
            slow.sendall(head.encode())
            refused = wait_for(lambda: (a := gateway.post("/v1/logs", b"")).status == 503 and a, "it is not refused")
            assert int(refused.headers["Retry-After"]) > 0
            slow.close()
            wait_for(lambda: gateway.post("/v1/logs", b"").status == 200, "it stays refused")

    def test_a_full_spool_refuses_and_loses_nothing(self, tmp_path: Path) -> None:
        """The database is away (a directory stands in its place) until the spool is full; then it comes back."""
        database = tmp_path / "away.db"
        database.mkdir()
        variables = {"CASEYOS_OTEL_SPOOL_MAX_BYTES": str(2**20), "CASEYOS_OTEL_DATABASE_URL": f"sqlite:///{database}"}
        accepted, padding = [], "x" * 20_000
        with serving(tmp_path / "state", **variables) as gateway:
            for n in range(100):
                request = request_of({**reply(n), "caseyos.outcome.recipient": padding})
                answer = gateway.post("/v1/logs", request.SerializeToString())
                if answer.status != 200:
                    break
                accepted.append(f"r{n}")
            assert (answer.status, Status.FromString(answer.body).code) == (503, 14)
            assert int(answer.headers["Retry-After"]) > 0
            assert len(accepted) > 30
            with pytest.raises(grpc.RpcError) as raised:
                call(gateway, request.SerializeToString())
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            assert (retry_after(raised.value) or 0) > 0
            assert gateway.get("/readyz").status == 503
            gateway.kill()
            database.rmdir()
            gateway.start_unready()
            query = "SELECT recommendation_id FROM outcome_events"
            found = wait_for(
                lambda: len(seen := names_in(database, query)) >= len(accepted) and seen,
                "not stored:",
                gateway.log.read_text,
            )
            assert sorted(found) == sorted(accepted)
            wait_for(lambda: gateway.get("/readyz").status == 200, "not ready again")


def names_in(database: Path, query: str) -> list[str]:
    import sqlite3

    if not database.is_file():
        return []
    with sqlite3.connect(database) as connection:
        try:
            return [str(row[0]) for row in connection.execute(query)]
        except sqlite3.OperationalError:  # not migrated yet
            return []
