"""The fraction of a job over tasks of which nobody knows beforehand how many there will be."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.server.jobs.stages import Stages
from atlas.server.jobs.work import Cancelled


def never() -> None:
    """No wish to stop."""


def test_one_task_takes_nine_tenths():
    stages = Stages({}, never)
    with stages.task("impacts", 4, "sets") as task:
        assert stages.news() == {
            "stage": "impacts", "progress": 0.0, "done": 0, "total": 4, "unit": "sets", "seconds_left": None,
            "details": None,
        }  # fmt: skip
        task.advance(2)
        assert stages.news()["progress"] == pytest.approx(0.45)
        assert stages.news() is None, "nothing is new"
        task.advance(2)
        assert stages.news()["progress"] == pytest.approx(0.9)
    assert at(stages) == pytest.approx(0.99), "the next takes nine tenths of the rest"


def test_listed_tasks_have_their_shares_in_any_order():
    stages = Stages({"pack": 0.25, "read": 0.5}, never)
    assert at(stages, "read") == pytest.approx(0.5)
    assert at(stages, "check") == pytest.approx(0.5 + 0.9 * 0.25), "what is not listed leaves the share of pack alone"
    assert at(stages, "pack") == pytest.approx(0.5 + 0.9 * 0.25 + 0.25)
    assert at(stages, "pack") < 1.0, "a second one of the same name has no share of its own"


def test_a_task_in_a_task_is_one_unit_of_it():
    stages = Stages({"layers": 1.0}, never)
    with stages.task("layers", 4, "layers") as outer:
        with stages.task("neurons", 10, "neurons") as inner:
            inner.advance(5)
            assert stages.news()["progress"] == pytest.approx(0.125)
        outer.advance()
        assert stages.news()["progress"] == pytest.approx(0.25)
        with stages.task("neurons", 10, "neurons") as inner:
            inner.advance(5)
            assert stages.news()["progress"] == pytest.approx(0.375)


def test_a_task_that_knows_no_size_or_does_more_stays_within_bounds():
    stages = Stages({}, never)
    with stages.task("unknown", 0, "rows") as task:
        task.advance(1000)
        assert stages.news()["progress"] == 0.0
    with stages.task("too many", 10, "rows") as task:
        task.advance(1000)
        assert 0.9 < stages.news()["progress"] <= 1.0


def test_a_note_is_news_of_its_own():
    stages = Stages({}, never)
    stages.note("loading the model")
    assert stages.news() == {"details": "loading the model"}
    with stages.task("impacts", 2, "sets"):
        assert stages.news()["details"] == "loading the model"
        stages.note("x" * 10_000)
        assert stages.news()["details"] == "x" * 2000


def test_free_units_make_no_rate():
    stages = Stages({}, never)
    with stages.task("shards", 10, "shards") as task:
        task.advance(5, free=True)
        assert stages.news()["seconds_left"] is None
        task.advance(1, told="shard 6")
        news = stages.news()
        assert news["seconds_left"] >= 0 and news["done"] == 6 and news["details"] == "shard 6"


def test_every_report_sees_the_wish_to_stop():
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Cancelled

    stages = Stages({}, check)
    with pytest.raises(Cancelled), stages.task("steps", 2, "steps") as task:
        task.advance()
        stop.set()
        task.advance()
    for report in (lambda: stages.note("x"), lambda: stages.task("more", 1, "x").__enter__()):
        with pytest.raises(Cancelled):
            report()
    assert not issubclass(Cancelled, Exception), "code that survives every failure must not survive this"


tasks = st.recursive(
    st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.lists(st.integers(0, 3), max_size=4)),
    lambda inner: st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.lists(st.integers(0, 3) | inner, max_size=4)),
    max_leaves=12,
)


@given(st.lists(tasks, max_size=6), st.dictionaries(st.sampled_from("abc"), st.floats(0, 0.33)))
def test_the_fraction_never_goes_back_and_never_passes_one(plan, shares):
    stages = Stages(shares, never)
    seen = [0.0]

    def run(task) -> None:
        title, total, steps = task
        with stages.task(title, total, "units") as open_task:
            for step in steps:
                if isinstance(step, int):
                    open_task.advance(step)
                else:
                    run(step)
                news = stages.news()
                seen.extend([news["progress"]] if news else [])

    for task in plan:
        run(task)
    assert seen == sorted(seen) and seen[-1] <= 1.0


def at(stages: Stages, title: str = "other") -> float:
    """Where a job stands after one more task."""
    with stages.task(title, 1, "x") as task:
        task.advance()
    return stages.news()["progress"]
