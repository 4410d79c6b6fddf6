import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snvrag.config import WindowConfig
from snvrag.errors import UsageError
from snvrag.windows import WindowPlan


@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=6).filter(any),
    st.integers(1, 1200),
)
def test_windows_tile_the_panel_without_crossing_chromosomes(sizes, window_size):
    config = WindowConfig(window_size, window_size + 1)
    plan = WindowPlan.from_chromosomes([(f"c{i}", n) for i, n in enumerate(sizes)], config)
    assert plan.total_snps == sum(sizes)
    assert plan.num_windows == sum(math.ceil(n / window_size) for n in sizes)
    assert [w.index for w in plan.windows] == list(range(plan.num_windows))
    starts = [0]
    for n in sizes:
        starts.append(starts[-1] + n)
    position = 0
    for window in plan.windows:
        assert window.start == position
        assert 1 <= window.n_snps <= window_size
        chromosome = int(window.chrom[1:])
        assert starts[chromosome] <= window.start < window.end <= starts[chromosome + 1]
        position = window.end
    assert position == sum(sizes)


@pytest.mark.parametrize(
    ("window_size", "max_seq_len", "expected"),
    [(511, 512, 294), (510, 512, 295), (255, 512, 589), (1023, 1024, 147)],
)
def test_window_counts_of_the_guides_chromosome(window_size, max_seq_len, expected):
    plan = WindowPlan.from_total(150_000, WindowConfig(window_size, max_seq_len))
    assert plan.num_windows == expected


def test_last_window_of_the_guides_chromosome():
    plan = WindowPlan.from_total(150_000)
    assert (plan.windows[0].start, plan.windows[0].end) == (0, 511)
    assert (plan.windows[1].start, plan.windows[1].end) == (511, 1022)
    last = plan.windows[293]
    assert (last.start, last.end, last.n_snps) == (149_723, 150_000, 277)


@pytest.mark.parametrize("total", [1, 510, 511, 512, 1023])
def test_edge_sizes(total):
    plan = WindowPlan.from_total(total)
    assert sum(w.n_snps for w in plan.windows) == total


@pytest.mark.parametrize("window_size", [512, 1023])
def test_window_larger_than_the_sequence_names_both_numbers_and_the_remedy(window_size):
    with pytest.raises(UsageError) as caught:
        WindowConfig(window_size)
    assert f"--window-size {window_size}" in caught.value.message
    assert "512" in caught.value.message
    assert f"--max-seq-len {window_size + 1}" in caught.value.hint


def test_sequence_length_is_never_derived():
    assert WindowConfig(255).max_seq_len == 512


def test_no_site_is_an_error():
    with pytest.raises(UsageError, match="no site"):
        WindowPlan.from_total(0)


def test_context_stops_at_the_chromosome():
    plan = WindowPlan.from_chromosomes([("1", 25), ("2", 30)], WindowConfig(10))
    assert list(plan.context(0, 1)) == [0, 1]
    assert list(plan.context(2, 1)) == [1, 2]
    assert list(plan.context(3, 2)) == [3, 4, 5]
    assert list(plan.context(1, 0)) == [1]


def test_selection():
    plan = WindowPlan.from_total(100, WindowConfig(10))
    assert plan.select(None) == list(range(10))
    assert plan.select("0-2, 7,2") == [0, 1, 2, 7]
    for text in ("10", "3-1", "a", "1-", "", "-1", "1,,2"):
        with pytest.raises(UsageError, match="--windows"):
            plan.select(text)
