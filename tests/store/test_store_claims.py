"""Claims and their evidence, on both backends."""

import pytest
import sqlalchemy as sa
from synthetic import make_spec, write_run

from mlux.errors import MluxError, ParameterError, RunError, UnknownNameError
from mlux.store import Store
from mlux.store.claims import add_claim, delete_claim, edit_claim, list_claims, load_claim

HOSTILE = "<script>alert('x')</script> \u202eabc \0 \ud800 🧪 '; DROP TABLE claims; --"


def test_a_claim_comes_back_with_its_evidence(store: Store) -> None:
    uids = [write_run(store), write_run(store, make_spec(tags={}))]
    made = add_claim(store, " Heads copy ", runs=[uids[1], "latest"], status="supported", note="x")
    assert made == load_claim(store, made.uid[:5])
    assert (made.text, made.status, made.note) == ("Heads copy", "supported", "x")
    assert [(item.run, item.experiment, item.model) for item in made.evidence] == [
        (uids[1], "toy_lens", "toy")
    ]
    other = add_claim(store, "Nothing copies")
    assert (other.status, other.evidence) == ("open", ())
    assert [claim.uid for claim in list_claims(store)] == [made.uid, other.uid]
    assert list_claims(store, runs=[uids[1]]) == [made]
    assert list_claims(store, runs=[uids[0]]) == []
    assert list_claims(store, status="open") == [other]


def test_a_claim_changes_only_where_it_is_told_to(store: Store) -> None:
    uids = [write_run(store), write_run(store)]
    made = add_claim(store, "Heads copy", runs=uids[:1], note="to check")
    edited = edit_claim(
        store, made.uid, status="refuted", add_runs=uids, remove_runs=[uids[0]], note=""
    )
    assert (edited.text, edited.status, edited.note) == ("Heads copy", "refuted", None)
    assert [item.run for item in edited.evidence] == [uids[1]]
    assert edited.created == made.created
    assert edited.updated >= made.updated
    reworded = edit_claim(store, made.uid, text="Some heads copy")
    assert (reworded.text, reworded.status) == ("Some heads copy", "refuted")
    with pytest.raises(RunError, match=f"Run {uids[0]} is no evidence of claim {made.uid}"):
        edit_claim(store, made.uid, remove_runs=[uids[0]])
    with pytest.raises(ParameterError, match="Nothing is changed: give a text, a status, a note"):
        edit_claim(store, made.uid)


def test_a_deleted_claim_is_gone_and_its_runs_stay(store: Store) -> None:
    uid = write_run(store)
    made = add_claim(store, "Heads copy", runs=[uid])
    assert delete_claim(store, made.uid) == made
    assert list_claims(store) == []
    with store.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM claim_runs")).scalar() == 0
        assert connection.execute(sa.text("SELECT count(*) FROM runs")).scalar() == 1


def test_evidence_in_the_bin_is_marked(store: Store) -> None:
    uid = write_run(store)
    made = add_claim(store, "Heads copy", runs=[uid])
    with store.writing() as connection:
        connection.execute(sa.text("UPDATE runs SET deleted_at = '2026-01-01'"))
    assert [item.deleted for item in load_claim(store, made.uid).evidence] == [True]


def test_hostile_text_is_stored_as_text(store: Store) -> None:
    made = add_claim(store, HOSTILE, note=HOSTILE)
    expected = HOSTILE.replace("\0", "").replace("\ud800", "?")
    assert load_claim(store, made.uid).text == load_claim(store, made.uid).note == expected


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        ({"text": "  "}, ParameterError, "needs a text that is not empty"),
        ({"text": "x" * 10_001}, ParameterError, "10001 characters; a claim has at most 10000"),
        ({"text": "x", "status": "true"}, ParameterError, "one of supported, refuted, open"),
        ({"text": "x", "runs": ["zzz"]}, UnknownNameError, "No run named 'zzz'"),
    ],
)
def test_what_is_no_claim_is_refused_and_nothing_is_stored(
    store: Store, arguments: dict[str, object], error: type[MluxError], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        add_claim(store, **arguments)  # type: ignore[arg-type] # wrong on purpose
    assert list_claims(store) == []


def test_a_claim_is_named_by_a_unique_start_of_its_id(store: Store) -> None:
    add_claim(store, "one")
    add_claim(store, "two")
    with store.writing() as connection:
        connection.execute(sa.text("UPDATE claims SET uid = 'aa1' WHERE text = 'one'"))
        connection.execute(sa.text("UPDATE claims SET uid = 'aa2' WHERE text = 'two'"))
    with pytest.raises(ParameterError, match="'aa' is the start of 2 claims: aa1, aa2"):
        load_claim(store, "aa")
    with pytest.raises(UnknownNameError, match="No claim named 'b'"):
        load_claim(store, "b")
    with pytest.raises(UnknownNameError, match="No claim named ''"):
        load_claim(store, "")
    assert load_claim(store, "AA2").text == "two"
