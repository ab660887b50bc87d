"""Compressed bodies, inflated up to a limit and never further: a few kilobytes may stand for gigabytes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Final

import zstandard

from caseyos_otel.gateway.refusal import MALFORMED, TOO_LARGE, UNSUPPORTED, Refused

_GZIP_WINDOW: Final = 31
_ZLIB_WINDOW: Final = 15
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW: Final = 8 * 2**20
"""RFC 8878 section 3.1.1.1.2 recommends decoders to take windows up to 8 MiB."""


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """A body as it was before it was compressed.

    Args:
        encoding: the `Content-Encoding`: `gzip`, `deflate` (RFC 9110: in zlib's wrapping), `zstd`, `identity` or empty.
        limit: the most bytes that come out.

    Raises:
        Refused: it is damaged, cut short, of another encoding, or would be larger.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _DECODERS:
        raise Refused(UNSUPPORTED, "Content-Encoding: accepted are gzip, deflate, zstd and identity")
    try:
        return _DECODERS[name](body, limit)
    except (zlib.error, zstandard.ZstdError, MemoryError):
        raise Refused(MALFORMED, f"the body is no whole {name} stream") from None


def _gzip(body: bytes, limit: int) -> bytes:
    """All members, one behind the other (RFC 1952 section 2.2)."""
    parts, room = [], limit
    while body:
        part, body = _zlib(body, room, _GZIP_WINDOW)
        parts.append(part)
        room -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _deflate(body: bytes, limit: int) -> bytes:
    inflated, rest = _zlib(body, limit, _ZLIB_WINDOW)
    if rest:
        raise zlib.error("something stands behind the stream")
    return inflated


def _zlib(body: bytes, limit: int, window: int) -> tuple[bytes, bytes]:
    """One stream, and what stands behind it."""
    stream = zlib.decompressobj(window)
    inflated = stream.decompress(body, limit + 1)
    if len(inflated) > limit:
        raise _too_large(limit)
    if not stream.eof:
        raise zlib.error("cut short")
    return inflated, stream.unused_data


def _zstd(body: bytes, limit: int) -> bytes:
    if zstandard.frame_content_size(body) > limit:
        raise _too_large(limit)
    if body.find(_ZSTD_MAGIC, 1) >= 0 and _more_than_one_frame(body, limit):
        raise zstandard.ZstdError("more than one frame")
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    try:
        return decompressor.decompress(body, max_output_size=limit)
    except zstandard.ZstdError:
        if _read(body, limit + 1) > limit:
            raise _too_large(limit) from None
        raise


def _more_than_one_frame(body: bytes, limit: int) -> bool:
    return _read(body, limit + 1) != _read(body, limit + 1, across=True)


def _read(body: bytes, most: int, *, across: bool = False) -> int:
    """How many bytes come out, counted up to `most`."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    with decompressor.stream_reader(body, read_across_frames=across) as reader:
        return len(reader.read(most))


def _too_large(limit: int) -> Refused:
    return Refused(TOO_LARGE, f"the body inflates to more than {limit} bytes (CASEYOS_OTEL_GATEWAY_MAX_BYTES)")


_DECODERS: Final[Mapping[str, Callable[[bytes, int], bytes]]] = {"gzip": _gzip, "deflate": _deflate, "zstd": _zstd}
