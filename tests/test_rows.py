"""Rows of results: what is written is read, whole or not at all, each config once."""

import pytest

from cbjax import rows

ROW = dict.fromkeys(rows.FIELDS, "1") | {"method": "CB, beta 0.9", "device": "1 x cpu", "config": "aa"}


def test_rows_come_back_and_a_config_has_one(tmp_path):
    path = tmp_path / "results.csv"
    assert rows.read(path) == []
    rows.add(path, [ROW, {**ROW, "config": "bb"}])
    rows.add(path, [{**ROW, "last": "2"}])
    assert rows.read(path) == [{**ROW, "last": "2"}, {**ROW, "config": "bb"}]
    assert path.read_text().splitlines()[0] == ",".join(rows.FIELDS)
    assert [found.name for found in tmp_path.iterdir()] == ["results.csv"]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", ",".join(rows.FIELDS) + "\n1,2\n", ""])
def test_another_file_is_refused_and_kept(tmp_path, text):
    path = tmp_path / "results.csv"
    path.write_text(text)
    with pytest.raises(rows.RowsError, match=r"results.csv must be a CSV with the columns table,method,"):
        rows.add(path, [ROW])
    assert path.read_text() == text
