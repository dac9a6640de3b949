"""Tags and notes are what a person says of a run, whenever they like."""

import pytest
from fuzzing import everything
from synthetic import make_spec

from mlux.errors import ParameterError, UnknownNameError
from mlux.store import Store, create_run, load_run, note_run, tag_run


def test_tags_are_set_replaced_and_removed(store: Store) -> None:
    uid = create_run(store, make_spec())
    other = create_run(store, make_spec())
    assert load_run(store, uid).tags == {"paper": "toy"}
    assert tag_run(store, uid, {"paper": "fv", "a b": "1=2"}) == {"paper": "fv", "a b": "1=2"}
    assert tag_run(store, uid, {"seen": ""}, remove=["a b"]) == {"paper": "fv", "seen": ""}
    assert load_run(store, uid).tags == {"paper": "fv", "seen": ""}
    assert load_run(store, other).tags == {"paper": "toy"}


def test_a_note_is_replaced_and_removed(store: Store) -> None:
    uid = create_run(store, make_spec())
    note_run(store, uid, "figure 3;\n'quoted'")
    assert load_run(store, uid).note == "figure 3;\n'quoted'"
    note_run(store, uid, "")
    assert load_run(store, uid).note is None


@pytest.mark.parametrize(
    ("tags", "remove", "complaint"),
    [
        ({"": "x"}, [], "A tag needs a name"),
        ({"a": "x"}, ["a"], "The tag 'a' is set and removed at once"),
        ({"new": "1"}, ["papr"], "No tag of run .* named 'papr'. Did you mean 'paper'"),
        ({"a\0": "x"}, [], "no database can hold"),
        ({"a": "\ud800"}, [], "no database can hold"),
    ],
)
def test_all_is_done_or_nothing(
    store: Store, tags: dict[str, str], remove: list[str], complaint: str
) -> None:
    uid = create_run(store, make_spec())
    before = everything(store)
    with pytest.raises((ParameterError, UnknownNameError), match=complaint):
        tag_run(store, uid, tags, remove=remove)
    assert everything(store) == before


def test_of_a_run_that_is_not_there_nothing_can_be_said(store: Store) -> None:
    with pytest.raises(UnknownNameError, match="No run named 'nope'"):
        tag_run(store, "nope", {"a": "b"})
    with pytest.raises(UnknownNameError, match="No run named 'nope'"):
        note_run(store, "nope", "x")
