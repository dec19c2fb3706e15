"""How variants are combined."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbjax.variants import Sweep, Table, Variant, chain, choices, product, seeds, values, zipped

LISTS = st.lists(
    st.integers(0, 9), min_size=1, max_size=4, unique=True
)  # of different keys, so that every product is allowed


def test_products_chains_and_zips():
    methods = choices("method", {"CE": {}, "focal": {"loss.name": "focal"}})
    gammas = values("setting", "loss.gamma", [0.5, 2], "gamma {}")
    both = product(methods[1:], gammas, seeds(2, first=5))
    assert [dict(one.labels) for one in both] == [
        {"method": "focal", "setting": f"gamma {gamma}", "seed": str(seed)} for gamma in (0.5, 2) for seed in (5, 6)
    ]
    assert both[-1].overrides == {"loss.name": "focal", "loss.gamma": 2, "seed": 6}
    assert chain(methods[:1], both)[0] == methods[0] and len(chain(methods, both)) == 6
    pairs = zipped(gammas, values("rate", "optim.learning_rate", [0.1, 0.2]))
    assert [tuple(one.overrides.values()) for one in pairs] == [(0.5, 0.1), (2, 0.2)]


@given(LISTS, LISTS, LISTS)
def test_a_product_has_each_combination_once_and_its_last_list_changes_fastest(first, second, third):
    lists = [values(key, f"k.{key}", numbers) for key, numbers in zip("abc", (first, second, third), strict=True)]
    found = [tuple(one.overrides.values()) for one in product(*lists)]
    assert found == [(a, b, c) for a in first for b in second for c in third]


@pytest.mark.parametrize(
    ("combine", "message"),
    [
        (lambda: product(seeds(2), seeds(1)), "give the axis seed"),
        (lambda: product(values("a", "seed", [1]), seeds(1)), "give the key seed"),
        (lambda: zipped(seeds(2), values("a", "loss.gamma", [1, 2, 3])), "equally long; got lengths 2, 3"),
    ],
)
def test_lists_that_do_not_go_together_are_refused(combine, message):
    with pytest.raises(ValueError, match=message):
        combine()


def test_variants_are_plain_records():
    assert choices("a", {"x": {"seed": 1}}) == [Variant({"a": "x"}, {"seed": 1})]
    assert Sweep("digits_lt", []).table is None and Table("T", (), "a").metric == "accuracy"
