"""The keyed hash and its key."""

from __future__ import annotations

import hmac
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from caseyos_otel.redaction.pseudonyms import Pseudonyms, load_key


def test_a_pseudonym_is_a_keyed_hash() -> None:
    expected = "h_" + hmac.new(b"key", b"john@acmecorp.com", "sha256").hexdigest()[:32]
    assert Pseudonyms(b"key").of("john@acmecorp.com") == expected


@pytest.mark.parametrize("spelling", ["John@AcmeCorp.com", "  john@acmecorp.com\n"])
def test_spelling_does_not_matter(spelling: str) -> None:
    assert Pseudonyms(b"key").of(spelling) == Pseudonyms(b"key").of("john@acmecorp.com")


def test_neither_does_unicode() -> None:
    assert Pseudonyms(b"k").of("JO\u0308RG") == Pseudonyms(b"k").of("j\u00f6rg")


def test_other_values_and_other_keys_have_other_pseudonyms() -> None:
    values = ["john@acmecorp.com", "jon@acmecorp.com", "", "\ud800", "x" * 10_000]
    assert len({Pseudonyms(key).of(v) for v in values for key in (b"a", b"b")}) == 10


def test_the_setting_wins_and_nothing_is_written(tmp_path: Path) -> None:
    assert load_key("from the setting", tmp_path / "state" / "key") == b"from the setting"
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "state" / "pii-key"
    key = load_key(None, path)
    assert len(key) == 64
    assert load_key("", path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_key(None, tmp_path / "other") != key


def test_a_key_that_somebody_put_there_is_taken(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("  ours\n")
    assert load_key(None, tmp_path / "key") == b"ours"


def test_an_empty_file_is_filled(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    assert load_key(None, tmp_path / "key") == load_key(None, tmp_path / "key") != b""


@pytest.mark.parametrize("obstacle", ["state", "state/key"])
def test_where_no_key_can_be_kept_a_random_one_serves_and_it_is_said(tmp_path: Path, obstacle: str) -> None:
    if obstacle == "state":
        (tmp_path / "state").touch()  # a file where the directory should be
    else:
        (tmp_path / "state" / "key").mkdir(parents=True)
    said: list[str] = []
    keys = {load_key(None, tmp_path / "state" / "key", said.append) for _ in range(2)}
    assert len(keys) == 2
    assert all(len(key) == 32 for key in keys)
    assert f"cannot be kept in {tmp_path / 'state' / 'key'}" in said[0]
    assert "CASEYOS_OTEL_PII_KEY" in said[0]


def test_processes_that_start_together_get_the_same_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from caseyos_otel.redaction.pseudonyms import load_key\n"
        "sys.stdin.readline(); print(load_key(None, Path(sys.argv[1])).decode())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "state" / "key")]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    keys = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert len(keys) == 1
    assert len(keys.pop()) == 64
