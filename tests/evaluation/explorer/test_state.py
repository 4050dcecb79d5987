"""Links: what they name, and what is none."""

import pytest

from evaluation.explorer.state import MAX_EDITS, Edit, State, read_edits, read_state


@pytest.mark.parametrize(
    "state",
    [
        State("twiffbench/00003"),
        State("twiffbench/00003", (Edit("zeros", 1), Edit("add"), Edit("hide", 12), Edit("no_frames"))),
        State("futurebench/a&b=c#d, ü", (Edit("future", 2),)),
    ],
)
def test_a_link_names_the_state_that_it_was_made_of(state: State) -> None:
    assert read_state(state.fragment) == state
    assert read_state(f"http://127.0.0.1:3100/#{state.fragment}") == state


@pytest.mark.parametrize("link", ["", "#", "edits=zeros.1", "item=", "item=a&item=b", "http://127.0.0.1:3100/"])
def test_a_link_without_an_item_names_none(link: str) -> None:
    with pytest.raises(ValueError, match="a state is `item=KEY`"):
        read_state(link)


@pytest.mark.parametrize(
    "edits",
    ["zeros", "zeros.0", "add.1", "no_frames.2", "ZEROS.1", "zeros.1.", "zeros.-1", "zeros.1000", "x" * 999, ","],
)
def test_what_is_no_edit_is_named(edits: str) -> None:
    with pytest.raises(ValueError, match=r"is no edit: want KIND\.SPAN"):
        read_edits(edits)


def test_too_many_edits_are_refused() -> None:
    assert len(read_edits(",".join(["add"] * MAX_EDITS))) == MAX_EDITS
    with pytest.raises(ValueError, match="at most 8"):
        read_edits(",".join(["add"] * (MAX_EDITS + 1)))
