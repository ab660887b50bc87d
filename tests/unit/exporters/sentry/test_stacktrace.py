"""Real tracebacks, read back from their text."""

from __future__ import annotations

import traceback

from caseyos_otel.exporters.sentry import stacktrace


def text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def fail() -> None:
    raise ValueError("two\nlines")


def fail_because() -> None:
    try:
        fail()
    except ValueError as cause:
        raise LookupError("no deal") from cause


def caught(call: object) -> BaseException:
    try:
        call()  # type: ignore[operator]
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


def test_frames_go_from_the_outermost_to_the_one_that_raised() -> None:
    (found,) = stacktrace.exceptions("ValueError", "two\nlines", text_of(caught(fail)))
    assert (found["type"], found["value"]) == ("ValueError", "two\nlines")
    frames = found["stacktrace"]["frames"]
    assert [frame["function"] for frame in frames] == ["caught", "fail"]
    assert frames[-1]["context_line"] == 'raise ValueError("two\\nlines")'
    assert frames[-1]["filename"] == "test_stacktrace.py"
    assert frames[-1]["lineno"] == fail.__code__.co_firstlineno + 1


def test_causes_come_first() -> None:
    cause, last = stacktrace.exceptions("LookupError", "no deal", text_of(caught(fail_because)))
    assert (cause["type"], cause["value"]) == ("ValueError", "two\nlines")
    assert [frame["function"] for frame in cause["stacktrace"]["frames"]] == ["fail_because", "fail"]
    assert (last["type"], last["value"]) == ("LookupError", "no deal")
    assert [frame["function"] for frame in last["stacktrace"]["frames"]] == ["caught", "fail_because"]


def test_a_group_stands_for_its_members() -> None:
    def raise_group() -> None:
        raise ExceptionGroup("both failed", [caught(fail), KeyError("x")])  # type: ignore[list-item]

    (found,) = stacktrace.exceptions("ExceptionGroup", "both failed", text_of(caught(raise_group)))
    assert [frame["function"] for frame in found["stacktrace"]["frames"]] == ["caught", "raise_group"]


def test_a_text_without_frames_keeps_type_and_message() -> None:
    (found,) = stacktrace.exceptions("gmail.errors.Quota", "over", "cut off in the middle")
    assert found == {
        "type": "Quota",
        "module": "gmail.errors",
        "value": "over",
        "mechanism": {"type": "caseyos_otel", "handled": True},
    }


def test_long_stacks_keep_the_innermost_frames() -> None:
    text = "".join(f'  File "/app/a.py", line {n}, in f\n    f()\n' for n in range(1, 301)) + "RecursionError: deep"
    (found,) = stacktrace.exceptions("RecursionError", "deep", text)
    lines = [frame["lineno"] for frame in found["stacktrace"]["frames"]]
    assert lines == list(range(201, 301))
