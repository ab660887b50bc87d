"""Event ids that are derived rather than drawn: UUIDv8 (RFC 9562 section 5.8), the same for the same input."""

from __future__ import annotations

import hashlib
from typing import Final
from uuid import UUID

_TIME_BITS: Final = 48
_VERSION: Final = 8 << 76
_VARIANT: Final = 2 << 62


def derived_event_id(timestamp_ns: int, content: bytes) -> str:
    """The id of an event that came without one: 48 bits of its own time in milliseconds, then a hash of its content.

    The same record delivered twice gets the same id, and ids sort by time like UUIDv7. `timestamp_ns` is nanoseconds
    since 1970; what 48 bits cannot hold becomes the nearest they can.
    """
    milliseconds = min(max(timestamp_ns // 1_000_000, 0), (1 << _TIME_BITS) - 1)
    return _uuid8(milliseconds, content)


def once_per_event_id(event_name: str, key: str) -> str:
    """The id behind `track(…, once_per=key)`: one per event (its flat name) and key, with time bits of zero."""
    name = event_name.encode()
    # the length keeps ("ab", "c") and ("a", "bc") apart
    return _uuid8(0, b"%d:%b%b" % (len(name), name, key.encode(errors="surrogatepass")))


def _uuid8(milliseconds: int, content: bytes) -> str:
    digest = int.from_bytes(hashlib.blake2b(content, digest_size=10).digest())
    custom_b = digest >> 62 & 0xFFF
    custom_c = digest & (1 << 62) - 1
    return str(UUID(int=milliseconds << 80 | _VERSION | custom_b << 64 | _VARIANT | custom_c))
