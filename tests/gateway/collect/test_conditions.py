"""Conditions: grammar, types, what unknown means, windows; as users write them."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.collect import Limits
from gateway.collect.bind import Condition, bind
from gateway.collect.evaluate import Evaluator
from gateway.collect.expression import ExpressionError, parse
from gateway.collect.inputs import Inputs
from gateway.collect.scaling import Scaling
from tests.gateway.collect.vehicle import DOOR, MANIFEST, MS, NAMES, SPEED, START

Event = tuple[float, str, float]  # ms, signal, physical value
WORDS = (
    "Speed",
    "Door",
    "'open'",
    "1",
    "2.5",
    "and",
    "or",
    "not",
    "(",
    ")",
    "==",
    "<",
    "+",
    "-",
    "*",
    "/",
    "mean",
    "rising",
    "changed",
    ",",
    "100",
    "`Gear`",
    "true",
    "age_ms",
)
NUMBERS = {"Speed": (SPEED, 2.0), "Door": (DOOR, 1.0)}


def truth(text: str, events: list[Event], sizes: tuple[int, ...] = (1,), stale_ms: int = 0) -> list[bool]:
    """Whether the condition holds after each event, fed in batches of the given sizes."""
    condition = bind(text, NAMES, Limits())
    keys = [(signal, False) for signal in condition.inputs]
    inputs = Inputs(dict(zip(keys, condition.windows_ns, strict=True)), Scaling(MANIFEST), 1000)
    evaluator = Evaluator(condition, stale_ms * MS)
    result: list[bool] = []
    at, turn = 0, 0
    while at < len(events):
        part = events[at : at + sizes[turn % len(sizes)]]
        at, turn = at + len(part), turn + 1
        times = np.array([START + round(e[0] * MS) for e in part], np.int64)
        series = []
        for key in keys:
            mine = [i for i, e in enumerate(part) if NUMBERS[e[1]][0] == key[0]]
            raws = np.array([round(part[i][2] * NUMBERS[part[i][1]][1]) for i in mine], np.int64)
            series.append(inputs.feed(key, np.array(mine, np.intp), times[mine], raws))
        instants = np.arange(len(part))
        result += evaluator.evaluate(series, instants, times)[0].tolist()
        inputs.trim(int(times[-1]))
    return result


def one(text: str, **values: float) -> bool:
    """The condition after these values arrived at once."""
    return truth(text, [(0, name, value) for name, value in values.items()])[-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Speed > 20", True),
        ("Speed > 20.5 or Speed < 20", False),
        ("Speed == 20.5", True),
        ("not Speed == 20.5", False),
        ("Speed * 2 + 1 == 42", True),
        ("1 + 2 * 3 == 7 and (1 + 2) * 3 == 9", True),
        ("-Speed < -20", True),
        ("abs(0 - Speed) == 20.5", True),
        ("Speed / 0 > 1", False),
        ("not (Speed / 0 > 1)", False),  # unknown stays unknown
        ("Speed / 0 > 1 or Speed > 1", True),
        ("Speed != 0x14", True),
        ("Door == 'open'", True),
        ("Door != 'open'", False),
        ('"open" == Door', True),
        ("drive.Motion.Speed > 0 and Motion.Speed > 0 and `Speed` > 0", True),
        ("(Speed > 1) == (Door > 0)", True),
        ("true and not false", True),
        ("Speed > 30 or Door == 'open' and Speed > 20", True),
    ],
)
def test_expressions(text: str, expected: bool) -> None:
    assert one(text, Speed=20.5, Door=1) is expected


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "empty"),
        ("Speed", 0, "is a number; compare it"),
        ("Speed >", 7, "too early"),
        ("Speed > 1 1", 10, "unexpected '1'"),
        ("Sped > 1", 0, "did you mean"),
        ("Speed > 'open'", 6, "only be compared by == or !="),
        ("Door == 'ajar'", 8, "has no label 'ajar'; it has 'closed', 'open'"),
        ("Speed and Door", 0, "needs a comparison"),
        ("not Speed", 4, "needs a comparison"),
        ("Speed + (Door > 1) > 2", 14, "needs a number"),
        ("1 < Speed < 3", 10, "cannot be chained"),
        ("Speed && Door", 6, "write 'and'"),
        ("Speed = 1", 6, "write '=='"),
        ("mean(Speed) > 1", 0, "mean(signal, window_ms)"),
        ("mean(Speed, Door) > 1", 12, "number of milliseconds"),
        ("mean(Speed, 99999999) > 1", 12, "must be 1 to"),
        ("mean(3, 5) > 1", 5, "takes a signal's name"),
        ("median(Speed, 5) > 1", 0, "there are min, max"),
        ("changed(Speed > 1)", 14, "takes a signal's name"),
        ("Speed > 1e999", 8, "too large"),
        ("Speed > 'open", 8, "not closed"),
        ("(Speed > 1", 10, "')' expected"),
        ("Speed > 1 ; x", 10, "unexpected ';'"),
    ],
)
def test_errors_tell_the_place(text: str, position: int, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        bind(text, NAMES, Limits())
    assert message in str(caught.value)
    assert caught.value.position == position


def test_limits_bound_any_expression() -> None:
    with pytest.raises(ExpressionError, match="nested deeper"):
        parse("(" * 100 + "1" + ")" * 100)
    with pytest.raises(ExpressionError, match="nested deeper"):
        parse("not " * 100 + "true")
    with pytest.raises(ExpressionError, match="more than 200 terms"):
        parse(" + ".join(["1"] * 150) + " > 1")
    with pytest.raises(ExpressionError, match="longer than"):
        parse("1" * 3000)


def test_unknown_until_seen_and_when_stale() -> None:
    assert not one("Speed > 1", Door=1)
    assert not one("not (Speed > 1)", Door=1)
    assert one("Speed > 1 or Door > 0", Door=1)
    events: list[Event] = [(0, "Speed", 9), (50, "Door", 1), (200, "Door", 1)]
    assert truth("Speed > 1 and Door > 0", events, stale_ms=100) == [False, True, False]


def test_changed_is_true_for_the_frame_that_changed() -> None:
    events: list[Event] = [(0, "Speed", 1), (1, "Speed", 1), (2, "Speed", 2), (3, "Door", 1), (4, "Speed", 2)]
    for sizes in ((1,), (5,), (2, 3)):
        assert truth("changed(Speed) and Door < 5 or changed(Speed)", events, sizes) == [
            False,
            False,
            True,
            False,
            False,
        ]


def test_rising_and_age() -> None:
    events: list[Event] = [(0, "Speed", 1), (10, "Speed", 9), (20, "Speed", 9), (30, "Speed", 1), (40, "Speed", 9)]
    for sizes in ((1,), (5,), (2, 3)):
        assert truth("rising(Speed > 5)", events, sizes) == [False, True, False, False, True]
    doors: list[Event] = [(0, "Speed", 1), (30, "Door", 1), (60, "Door", 1)]
    assert truth("age_ms(Speed) >= 50 and Door > 0", doors, (3,)) == [False, False, True]


def test_a_tick_sees_a_window_run_empty() -> None:
    condition = bind("count(Speed, 100) == 0", NAMES, Limits())
    inputs = Inputs({(SPEED, False): 100 * MS}, Scaling(MANIFEST), 100)
    evaluator = Evaluator(condition)
    none = np.zeros(0, np.intp)
    inputs.feed((SPEED, False), np.array([0]), np.array([START]), np.array([5]))
    for at_ms, expected in ((50, False), (99, False), (100, True)):
        series = [inputs.feed((SPEED, False), none, none.astype(np.int64), none.astype(np.int64))]
        now = np.array([START + at_ms * MS])
        assert evaluator.evaluate(series, np.zeros(1, np.intp), now)[0].tolist() == [expected]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 50)), min_size=1, max_size=60),
    st.sampled_from(["min", "max", "mean", "count"]),
    st.sampled_from([1, 30, 100, 400]),
    st.sampled_from([(1,), (60,), (3, 7)]),
)
def test_window_functions_equal_the_plain_definition(
    steps: list[tuple[int, int]], function: str, window_ms: int, sizes: tuple[int, ...]
) -> None:
    functions = {"min": min, "max": max, "mean": statistics.fmean, "count": len}
    at, events, expected = 0, [], []
    for step, value in steps:
        at += step
        events.append((float(at), "Speed", float(value)))
        window = [v for t, _, v in events if at - window_ms < t <= at]
        expected.append(functions[function](window) >= 20)  # type: ignore[operator]  # a table of unlike functions
    assert truth(f"{function}(Speed, {window_ms}) >= 20", events, sizes) == expected


def test_nan_on_the_bus_is_unknown() -> None:
    nan = np.array([0x7FC00000], np.int64)
    condition = bind("Temperature > 1 or not (Temperature > 1)", NAMES, Limits())
    signal = condition.inputs[0]
    inputs = Inputs({(signal, False): 0}, Scaling(MANIFEST), 100)
    series = [inputs.feed((signal, False), np.array([0]), np.array([START]), nan)]
    assert math.isnan(series[0].value[1])
    assert Evaluator(condition).evaluate(series, np.array([0]), np.array([START]))[0].tolist() == [False]


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(WORDS),
            max_size=14,
        ).map(" ".join),
    )
)
def test_any_text_is_a_condition_or_an_expression_error(text: str) -> None:
    result = condition_or_error(text)
    if isinstance(result, ExpressionError):
        assert 0 <= result.position <= len(text)
    elif set(result.inputs) <= {SPEED, DOOR}:
        assert isinstance(truth(text, [(0, "Speed", 1), (1, "Door", 0)])[-1], bool)


def condition_or_error(text: str) -> Condition | ExpressionError:
    """What binding gives or raises."""
    try:
        return bind(text, NAMES, Limits())
    except ExpressionError as error:
        return error
