"""The views for people: complete, and compared as numbers whoever asks."""

import pytest
import sqlalchemy as sa
from synthetic import (
    METRICS,
    make_environment,
    make_finished,
    make_spec,
    token_text,
    work,
    write_run,
)

from mlux.results import Metric
from mlux.store import FinishedTrial, RunWriter, Store, create_run, query
from mlux.store.deletion import delete_runs
from mlux.store.views import VIEWS

CONDITIONS = [{"site": "head"}, {"site": "head", "control": "random"}]


def rows(store: Store, sql: str) -> list[tuple[object, ...]]:
    return query(store, sql)[1]


@pytest.fixture
def uid(store: Store) -> str:
    """A run with a control; its control's trials are 4 to 7."""
    return write_run(store, make_spec(conditions=CONDITIONS))


def test_a_filter_that_another_tool_writes_as_text_finds_the_same_rows(
    store: Store, uid: str
) -> None:
    filters = {
        "results": ("layer", "head", "trial", "n_layers", "metric_id", "prompt_id"),
        "predictions": ("layer", "position", "rank", "token_id", "trial", "n_layers"),
        "controlled_effects": ("layer", "head", "trial", "n_layers"),
        "run_overview": ("trials", "done", "failed", "seed"),
    }
    for view, names in filters.items():
        for name in names:
            ((least,),) = rows(store, f"SELECT max({name}) FROM {view}")
            plain = rows(store, f"SELECT count(*) FROM {view} WHERE {name} = {least}")
            quoted = rows(store, f"SELECT count(*) FROM {view} WHERE {name} = '{least}'")
            assert plain == quoted != [(0,)], (view, name)
    for view, name in (("predictions", "probability"), ("controlled_effects", "difference")):
        plain = rows(store, f"SELECT count(*) FROM {view} WHERE {name} < 0.5")
        assert plain == rows(store, f"SELECT count(*) FROM {view} WHERE {name} < '0.5'") != [(0,)]


def test_two_definitions_of_a_metric_can_be_told_apart(store: Store, uid: str) -> None:
    other = Metric(name="logit_diff", unit="nats", description="Something else")
    metrics = (METRICS[0], other, *METRICS[2:])
    write_run(store, make_spec(metrics=metrics))
    found = rows(
        store,
        "SELECT metric, metric_id, metric_unit FROM results WHERE metric = 'logit_diff' "
        "GROUP BY metric, metric_id, metric_unit ORDER BY metric_unit",
    )
    assert [row[2] for row in found] == ["logits", "nats"]
    assert len({row[1] for row in found}) == 2
    assert rows(store, "SELECT DISTINCT status, n_layers FROM results") == [("done", 3)]


def test_effects_stand_beside_those_of_their_control(store: Store, uid: str) -> None:
    found = rows(
        store,
        "SELECT metric, layer, head, trial, prompt_id, value, control_value, difference, "
        "condition, control FROM controlled_effects",
    )
    with store.reading() as connection:
        stored = connection.execute(
            sa.text(
                "SELECT k.name, NULLIF(v.layer, -1), NULLIF(v.head, -1), v.trial, v.value "
                "FROM layer_results AS v JOIN metrics AS k ON k.id = v.metric_id"
            )
        )
        values = {tuple(row[:4]): row[4] for row in stored}
    assert len(found) == len(values) // 2
    for metric, layer, head, trial, _, value, control, difference, condition, name in found:
        assert isinstance(trial, int)
        assert value == values[(metric, layer, head, trial)]
        assert control == values[(metric, layer, head, trial + 4)]
        assert difference == pytest.approx(value - control)
        assert (condition, name) == ("site=head", "site=head, control=random")


def test_failures_texts_options_and_conditions_have_names(store: Store) -> None:
    uid = create_run(store, make_spec(conditions=CONDITIONS))
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment())
    writer.write([make_finished(0), FinishedTrial(trial=1, results=[], error="too long")])
    writer.finish("failed", error="1 trial failed")
    assert rows(store, "SELECT run, prompt, condition, trial, error FROM failures") == [
        (uid, "The capital of country 1 is", "site=head", 1, "too long")
    ]
    assert rows(store, "SELECT run, prompt, condition, sample, text FROM named_generations") == [
        (uid, "The capital of country 0 is", "site=head", 0, "city 0 ?")
    ]
    assert rows(store, "SELECT value, number FROM named_params WHERE name = 'alpha'") == [
        ("0.5", 0.5)
    ]
    assert rows(store, "SELECT run, name, value FROM named_tags") == [(uid, "paper", "toy")]
    assert rows(
        store,
        "SELECT DISTINCT x.name, x.value FROM results AS r "
        "JOIN named_conditions AS x ON x.condition_id = r.condition_id",
    ) == [("site", "head")]
    work(store, uid, range(1, 8))
    assert rows(store, "SELECT * FROM failures") == []


def test_no_view_shows_a_deleted_run(store: Store, uid: str) -> None:
    delete_runs(store, [uid])
    left = {view for view in VIEWS if rows(store, f"SELECT * FROM {view}")}
    assert left == {"named_conditions"}  # they are of no run
