from __future__ import annotations

from caseyos_otel.gateway.seen import Seen


def test_the_latest_are_known_and_the_oldest_forgotten() -> None:
    seen = Seen(most=3)
    for n in range(100):
        assert str(n) not in seen
        seen.add(str(n))
        known = [k for k in range(n + 1) if str(k) in seen]
        assert known == list(range(n + 1 - len(known), n + 1))
        assert min(n + 1, 3) <= len(known) <= 6
