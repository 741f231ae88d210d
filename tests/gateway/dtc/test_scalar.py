"""Conditions at one moment mean what they mean over a batch: compared with the evaluator of collection schemes."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from dbc.manifest import Kind, Manifest, Message, Signal
from gateway.collect.bind import bind
from gateway.collect.evaluate import Evaluator
from gateway.collect.inputs import Series
from gateway.collect.model import Limits
from gateway.collect.names import Names
from gateway.dtc.scalar import Present, compile_condition, refused_function
from tests.support import LONG

NAN = float("nan")
NAMES = ("a", "b", "c")
MANIFEST = Manifest(
    1,
    "car",
    ("x",),
    tuple(
        Message(
            f"M{n}", 0, i, False, False, 8, 10, None, "", "",
            (Signal(n, 0, 64, False, Kind.FLOAT64, 1.0, 0.0, None, None, "", {0: "off", 1: "on"}, False, ()),),
        )
        for i, n in enumerate(NAMES)
    ),
)  # fmt: skip

numbers = st.recursive(
    st.sampled_from(NAMES) | st.sampled_from(["0", "1", "2.5", "age_ms(a)", "age_ms(c)"]),
    lambda inner: (
        st.tuples(st.sampled_from(["({} + {})", "({} - {})", "({} * {})", "({} / {})"]), inner, inner).map(
            lambda t: t[0].format(t[1], t[2])
        )
        | inner.map("-({})".format)
        | inner.map("abs({})".format)
    ),
    max_leaves=5,
)
truths = st.recursive(
    st.tuples(numbers, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), numbers).map(" ".join)
    | st.sampled_from(["true", "false", "a == 'on'", "b != 'off'"]),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | inner.map("not ({})".format)
        | inner.map("rising({})".format)
    ),
    max_leaves=5,
)
values = st.sampled_from([NAN, 0.0, 1.0, -1.0, 2.5, 1e300, -1e300]) | st.floats(-10, 10)


@settings(max_examples=1000 if LONG else 100, deadline=None)
@given(truths, st.lists(st.tuples(*[values] * 3, st.integers(0, 5000)), min_size=1, max_size=6))
def test_same_truth_as_over_a_batch(text: str, moments: list[tuple[float, float, float, int]]) -> None:
    condition = bind(text, Names(MANIFEST), Limits())
    evaluator, present = Evaluator(condition), Present(3)
    read = compile_condition(condition, condition.inputs, present)
    now_ns = 10**12
    for *chosen, age_ms in moments:
        now_ns += 10**9
        at_ns = now_ns - age_ms * 1_000_000
        series = []
        for signal in condition.inputs:
            value, time = np.array([chosen[signal]]), np.array([at_ns])
            empty = np.zeros(0, np.intp)
            series.append(Series(empty, time, value, np.zeros(0, np.bool_), time[:0], value[:0], True))
        holds, _ = evaluator.evaluate(series, np.array([0]), np.array([now_ns]))
        present.value[:] = chosen
        present.age_ms[:] = [float(age_ms)] * 3
        truth = read()
        assert (truth == 1.0) == bool(holds[0]), text
        assert truth in (0.0, 1.0) or math.isnan(truth)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("max(a, 100) > 1", "max"),
        ("changed(a)", "changed"),
        ("a > 1 and not (count(b, 10) > 1)", "count"),
        ("a > 1", ""),
    ],
)
def test_functions_that_need_every_sample_are_named(text: str, refused: str) -> None:
    assert refused_function(bind(text, Names(MANIFEST), Limits())) == refused
