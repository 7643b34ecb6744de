"""Windows cover every token of a text, overlap by a quarter, and can be told from the number of tokens alone."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitext.data.windows import describe_windows, num_windows, split_windows, window_lengths

TOKENS, SIZES = st.integers(0, 300), st.integers(1, 40)


@given(TOKENS, SIZES)
def test_every_token_is_in_a_window_and_windows_are_in_order(tokens: int, size: int):
    windows = split_windows(list(range(tokens)), size)
    assert {token for window in windows for token in window} == set(range(tokens))
    assert all(window == list(range(window[0], window[0] + len(window))) for window in windows if window)


@given(TOKENS, SIZES)
def test_a_window_begins_with_the_last_quarter_of_the_one_before(tokens: int, size: int):
    windows = split_windows(list(range(tokens)), size)
    for window, following in pairwise(windows):
        shared = set(window) & set(following)
        assert len(shared) == size // 4 and following[: size // 4] == window[size - size // 4 :]


@given(TOKENS, SIZES)
def test_all_windows_are_full_but_the_last_which_is_longer_than_the_overlap(tokens: int, size: int):
    *full, last = split_windows(list(range(tokens)), size)
    assert {len(window) for window in full} <= {size}
    assert len(last) <= size and (not full or len(last) > size // 4)


@given(TOKENS, SIZES)
def test_a_text_of_at_most_one_window_is_not_cut(tokens: int, size: int):
    assert (len(split_windows(list(range(tokens)), size)) == 1) == (tokens <= size)


@pytest.mark.parametrize(
    ("tokens", "expected"), [(8, ["01234567"]), (9, ["01234567", "678"]), (14, ["01234567", "6789abcd"])]
)
def test_windows_of_eight_by_hand(tokens: int, expected: list[str]):
    assert ["".join(window) for window in split_windows(list("0123456789abcdef"[:tokens]), 8)] == expected


@given(st.lists(TOKENS, max_size=8), SIZES, st.integers(0, 3))
def test_windows_are_told_from_the_number_of_their_tokens(tokens: list[int], size: int, special: int):
    """`special` tokens are added to each window, also to that of an empty text."""
    texts = [[special + len(window) for window in split_windows([0] * count, size)] for count in tokens]
    totals = torch.tensor([sum(windows) for windows in texts], dtype=torch.int64)
    windows, lengths = window_lengths(totals, size + special)
    assert windows.tolist() == num_windows(totals, size + special).tolist() == [len(windows) for windows in texts]
    assert lengths.tolist() == [length for windows in texts for length in windows]


def test_long_texts_are_counted_and_the_longest_is_named():
    line = describe_windows(torch.tensor([3, 16, 17, 0, 90]), 16)
    assert line == "2 of 5 training texts are longer than 16 tokens; the longest is 6 windows"
