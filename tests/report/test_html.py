"""The page that one sends to others: it needs nothing else, shows the same figures, and keeps names harmless."""

import csv
import html.parser
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from cbjax.cli.arguments import parse
from cbjax.report import html as one_page
from cbjax.report import report
from cbjax.report.methods import group
from cbjax.report.read import read_runs
from tests.report.test_report import make_run, tables


class Reader(html.parser.HTMLParser):
    """Collects tags with their attributes, the cells of each table, and what is drawn as text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.tables, self.open, self.words = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.open and "script" not in self.open:
            self.words.append(data)
        if self.tables and ("td" in self.open or "th" in self.open):
            self.tables[-1][-1][-1] += data


def outside(reader):
    """What a page would load from elsewhere."""
    loads = [
        value for _, attributes in reader.tags for key, value in attributes.items() if key in ("src", "xlink:href")
    ]
    loads += [attributes["href"] for tag, attributes in reader.tags if tag == "link"]
    return [value for value in loads if not value.startswith(("data:", "#"))]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of two named methods in all forms, and their results."""
    root = tmp_path_factory.mktemp("runs")
    results = {}
    for method in ("ce", "cb_focal"):
        results[method] = make_run(root / f"{method}=0", method=method, counts=[150, 40, 5], held_out=False)
    named = [("CE <i>plain</i>", root / "ce=0"), ("CB, γ = 1", root / "cb_focal=0")]
    return report(named, root / "out", html=True, svg=True).parent, results


def test_the_page_shows_the_figures_of_the_report_and_needs_nothing_else(compared):
    out, _ = compared
    page = (out / "report.html").read_text()
    reader = Reader(page)
    assert outside(reader) == [] and "default-src 'none'" in page
    (expected,) = [rows for title, rows in tables((out / "report.md").read_text()).items() if title == "Last epoch"]
    header, *rows = reader.tables[0]
    assert header == list(expected[0])
    assert [row[1:] for row in rows] == [list(row.values())[1:] for row in expected]
    assert [row[0] for row in rows] == ["CE <i>plain</i>", "CB, γ = 1"], "names given on the command line, as text"
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= set(ids)
    assert {link for link in links if not link.startswith("#")} == {"classes_by_method.csv", "confusion_by_method.csv"}
    figures = sum(tag == "svg" for tag, _ in reader.tags)
    assert figures == len(list(out.glob("*.png"))) == 5
    assert "training loss" in " ".join(reader.words), "texts of pictures can be searched"


def test_every_picture_is_there_as_svg_too(compared):
    out, _ = compared
    assert {path.stem for path in out.glob("*.svg")} == {path.stem for path in out.glob("*.png")}
    for path in out.glob("*.svg"):
        assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "Date" not in path.read_text()


def test_classes_and_confusions_are_there_as_csv(compared):
    out, results = compared
    read = {
        name: list(csv.DictReader(io.StringIO((out / f"{name}_by_method.csv").read_text())))
        for name in ("classes", "confusion")
    }
    ours = [float(row["accuracy"]) for row in read["classes"] if row["method"] == "CB, γ = 1"]
    np.testing.assert_allclose(ours, results["cb_focal"]["per_class"]["last"], rtol=1e-5)
    table = np.array(results["ce"]["confusion"]["last"])
    shares = {
        (row["true_class"], row["predicted_class"]): float(row["share"])
        for row in read["confusion"]
        if row["method"].startswith("CE")
    }
    assert shares == {
        (f"digit {i}", f"digit {j}"): pytest.approx(table[i, j] / table[i].sum(), rel=1e-5)
        for i, j in np.argwhere(table > 0)
    }


def test_an_earlier_page_and_its_pictures_go_with_the_next_report(tmp_path):
    make_run(tmp_path / "run", counts=[9, 5])
    for name in ("report.html", "confusion.svg", "classes_by_method.csv", "mine.svg"):
        (tmp_path / name).touch()
    (tmp_path / "run" / "results.json").unlink()
    report([tmp_path / "run"], tmp_path)
    assert not any((tmp_path / name).exists() for name in ("report.html", "confusion.svg", "classes_by_method.csv"))
    assert (tmp_path / "mine.svg").exists()


def test_names_cannot_break_the_page(tmp_path):
    markdown = "# a \\<script\\>alert(1)\\</script\\>\n\n| x |\n| --- |\n| \\<b\\> |\n\n<img src=http://a.b>\n"
    page = one_page.page(markdown, {}, tmp_path)
    reader = Reader(page)
    assert [tag for tag, _ in reader.tags].count("script") == 1 and outside(reader) == []
    assert reader.tables == [[["x"], ["<b>"]]]
    assert "<title>a &lt;script&gt;" in page


def test_a_number_behind_a_name_from_right_to_left_stays_behind_it(tmp_path):
    page = one_page.page("Classes: שלום עולם (17), كلب \\<b\\> (9).\n\n| x |\n| --- |\n| שלום 3 |\n", {}, tmp_path)
    assert "Classes: <bdi>שלום עולם</bdi> (17), <bdi>كلب</bdi> &lt;b&gt; (9)." in page
    assert "<td><bdi>שלום</bdi> 3</td>" in page


def test_a_very_large_picture_is_shown_as_its_png(tmp_path):
    (tmp_path / "a.png").write_bytes(b"png")
    head = b'<?xml version="1.0"?>\n<svg width="36pt" height="9pt" viewBox="0 0 36 9">'
    svg = head + b'<g id="axes_1"><path d="M 1.23456 2 "/>%s</g></svg>'
    small = one_page.page("![seen](a.png)\n", {"a.png": svg % b""}, tmp_path)
    assert '<path d="M 1.23 2 "/>' in small and "axes_1" not in small and 'aria-label="seen"' in small
    large = one_page.page("![seen](a.png)\n", {"a.png": svg % (b"<!-- -->" * one_page.LARGEST)}, tmp_path)
    assert "data:image/png;base64,cG5n" in large and len(large) < 20_000


def test_methods_have_the_names_that_are_given(tmp_path):
    for seed in range(2):
        make_run(tmp_path / f"first_{seed}", seed=seed, counts=[9, 5])
        make_run(tmp_path / "b" / "beta=0.9" / f"seed_{seed}", method="cb_focal", seed=seed, counts=[9, 5])
    given = [("CE", tmp_path / "first_0"), ("CB", tmp_path / "b"), ("CE", tmp_path / "first_1")]
    methods, left_out = group(read_runs(given)[0])
    assert [(method.label, len(method.runs)) for method in methods] == [("CE", 2), ("CB", 2)] and not left_out
    both, _ = group(read_runs([("all", tmp_path)])[0])
    assert sorted(method.label for method in both) == [
        "all (loss.name=focal, weights.name=class_balanced)",
        "all (loss.name=softmax, weights.name=uniform)",
    ]


def test_the_command_line_tells_names_from_folders(tmp_path, capsys):
    folder = tmp_path / "beta=0.9"
    folder.mkdir()
    options, _ = parse(["report", f"CB 0.9={folder}", str(folder), f"{tmp_path}/x=y", "--out=o", "--html"])
    assert [one if isinstance(one, tuple) else str(one) for one in options.directories] == [
        ("CB 0.9", folder),
        str(folder),
        f"{tmp_path}/x=y",
    ]
    assert options.html and not options.svg
    for wrong in ("=runs", "CE="):
        with pytest.raises(SystemExit):
            parse(["report", wrong])
        assert re.search(r"must be DIR or NAME=DIR, such as CE=runs/ce; got", capsys.readouterr().err)


def test_many_methods_have_tables_and_no_picture_that_nobody_can_read(tmp_path):
    for number in range(29):
        make_run(tmp_path / f"method_{number}" / "seed_0", seed=number, counts=[9, 5])
    page = report([tmp_path], tmp_path, html=True)
    assert "a picture tells 28 methods apart, and here are 29." in page.read_text()
    assert not list(tmp_path.glob("*.png")) and not (tmp_path / "confusion_by_method.csv").exists()
    assert len(Reader(page.with_suffix(".html").read_text()).tables[0]) == 1 + 29
