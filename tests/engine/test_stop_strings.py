"""Stop strings in a stream: found across any borders, nothing shown too early or lost."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_rt import ConfigError
from llama_rt.engine.stopping import StopMatcher, parse_stop


def run(pieces, strings):
    matcher = StopMatcher(strings)
    shown = [matcher.push(piece) for piece in pieces]
    if not matcher.found:
        shown.append(matcher.finish())
    return "".join(shown), matcher.found


def expected(text, strings):
    """Character by character: the first moment at which a stop string is complete."""
    for end in range(1, len(text) + 1):
        found = [s for s in strings if text[:end].endswith(s)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@given(
    st.lists(st.text("ab", max_size=4), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_pieces_do_not_matter(pieces, strings):
    assert run(pieces, strings) == expected("".join(pieces), strings)


def test_every_cut_of_one_text():
    text, strings = "one\n\nUser: two", ["\n\nUser:", "\n\nSystem:"]
    for cuts in itertools.combinations(range(len(text)), 2):
        borders = [0, *cuts, len(text)]
        pieces = [text[a:b] for a, b in itertools.pairwise(borders)]
        assert run(pieces, strings) == ("one", True)


def test_what_may_be_a_beginning_is_held_back():
    matcher = StopMatcher(["END"])
    assert matcher.push("the E") == "the "
    assert matcher.push("N") == ""
    assert matcher.push("T") == "ENT"
    assert matcher.push("E") == ""
    assert matcher.finish() == "E"


def test_nothing_comes_after_the_stop():
    matcher = StopMatcher(["."])
    assert matcher.push("a.b") == "a"
    assert matcher.found
    assert matcher.push("c") == ""


def test_forms_of_the_argument():
    assert parse_stop(()) == ((), frozenset())
    assert parse_stop(None) == ((), frozenset())
    assert parse_stop("x") == (("x",), frozenset())
    assert parse_stop(7) == ((), {7})
    assert parse_stop(["a", 3, "b", "a"]) == (("a", "b"), {3})


@pytest.mark.parametrize(
    ("stop", "error"),
    [("", ConfigError), (["a", ""], ConfigError), (-1, ConfigError), (1.5, TypeError),
     ([None], TypeError), (b"x", TypeError), ([True], TypeError)],
)  # fmt: skip
def test_senseless_stops_are_refused(stop, error):
    with pytest.raises(error, match="stop"):
        parse_stop(stop)
