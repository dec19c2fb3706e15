"""What the pictures say, read from their figures: names, numbers of runs, ticks and panels."""

import numpy as np
import pytest

from cbjax.report import canvas, plots, reliability, sweep_plots
from cbjax.report.sweep_pictures import sweep_pictures


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would have been written, by the names of their files."""
    figures = {}

    def keep(figure, path):
        figure.canvas.draw()
        figures[path.name] = figure
        path.touch()

    monkeypatch.setattr(canvas, "save", keep)
    return figures


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def labels(axis):
    return [tick.label1.get_text() for tick in axis.get_major_ticks() + axis.get_minor_ticks()]


@pytest.mark.parametrize("methods", [["CB"], ["CB", "CDB"]])
def test_a_class_without_test_images_says_so_and_has_no_mark(tmp_path, drawn, methods):
    accuracy = {name: np.array([[0.0, np.nan, 0.8]]) for name in methods}
    plots.classes(tmp_path / "classes.png", ["ant", "bee", "cat"], np.array([30, 20, 10]), accuracy)
    right = drawn["classes.png"].axes[1]
    (said,) = right.texts
    assert said.get_text() == "no images"
    assert said.xy == (0, 1), "in the row of bee, the second by training images"


def test_the_paper_s_curves_have_their_method_s_name_and_levels_differ(tmp_path, drawn):
    curves = {"CB": {0.9: [1.0, 2.0], 0.99: [2.0]}, "CB focal": {0.9: [3.0], 0.99: [4.0]}}
    levels = {f"a method of which the long name ends in tau {i}": [float(i)] for i in range(24)}
    paper = {method: {0.9: 1.0, 0.99: 2.0} for method in curves}
    panel = sweep_plots.Panel(curves, levels, paper)
    sweep_plots.against_setting(tmp_path / "settings.png", "beta", {"a": panel}, "test error, %")
    texts = legend(drawn["settings.png"])
    assert texts[:4] == ["CB", "CB, the paper", "CB focal", "CB focal, the paper"]
    assert len(set(texts)) == len(texts) == 28
    box = drawn["settings.png"].legends[0].get_window_extent()
    assert box.y0 >= 0 and box.y1 <= drawn["settings.png"].bbox.y1
    lines = [line for line in drawn["settings.png"].axes[0].get_lines() if line.get_label() in texts[4:]]
    assert len(lines) == len({(line.get_color(), repr(line._dash_pattern)) for line in lines}) == 24
    assert drawn["settings.png"].get_suptitle() == "mean of 1 to 2 runs, last epoch; bars: ± standard deviation"
    containers = drawn["settings.png"].axes[0].containers
    one, none = ([bar for bar in each.lines[2][0].get_segments() if len(bar)] for each in containers)
    assert [np.ptp(bar[:, 1]) for bar in one] == [pytest.approx(np.sqrt(2))] and not none, "one run has no deviation"


def test_columns_with_one_value_of_the_setting_are_left_out_and_named(tmp_path, drawn):
    table = {"metric": "error", "columns": "ratio", "paper": []}
    table |= {"column_names": ["1", "2"], "row_names": [["CB", "beta 0.9"], ["CB", "beta 0.99"]]}
    cells = [("beta 0.9", "1"), ("beta 0.99", "1"), ("beta 0.9", "2")]
    rows = [{"method": "CB", "setting": setting, "cell": cell, "last": "5.0"} for setting, cell in cells]
    shown = sweep_pictures(tmp_path, tmp_path, table, rows, [])
    assert [axes.get_title() for axes in drawn["settings.png"].axes] == ["ratio 1"]
    assert "Not drawn by beta, for fewer than two of its values: ratio 2." in shown
    assert drawn["settings.png"].get_suptitle() == "1 run each, last epoch"
    del drawn["settings.png"]
    shown = sweep_pictures(tmp_path, tmp_path, table, rows[1:], [])
    assert "settings.png" not in drawn and shown[-1].endswith("values: ratio 1, 2."), "no column has two values"


def test_a_grid_of_two_settings_has_a_line_for_each_value_of_one_setting(tmp_path, drawn):
    settings = ["", *(f"beta {beta}, tau {tau}" for beta in (0.9, 0.99) for tau in (1, 2, 5))]
    table = {
        "metric": "error",
        "columns": "ratio",
        "column_names": ["1"],
        "row_names": [["CB", one] for one in settings],
    }
    table["paper"] = [{"row": ["CB", settings[1]], "column": "1", "mean": 3.0, "std": None}]
    rows = [{"method": "CB", "setting": one, "cell": "1", "last": str(i)} for i, one in enumerate(settings)]
    shown = "\n".join(sweep_pictures(tmp_path, tmp_path, table, rows, []))
    assert "CB beta 0.9, CB beta 0.99: test error, % by tau" in shown
    lines = {line.get_label(): list(line.get_ydata()) for line in drawn["settings.png"].axes[0].get_lines()}
    assert lines["CB beta 0.9"] == [1, 2, 3] and lines["CB beta 0.99"] == [4, 5, 6] and lines["CB"] == [0, 0]
    assert legend(drawn["settings.png"]) == ["CB beta 0.9", "CB beta 0.9, the paper", "CB beta 0.99", "CB"]
    assert "settings_2.png" not in drawn, "its rows are all there"


def test_each_setting_has_a_picture_of_its_own(tmp_path, drawn):
    names = [["CB", "beta 0.9"], ["CB", "beta 0.99"], *(["CDB", f"tau {tau}"] for tau in (1, 2, 5)), ["CE", ""]]
    table = {"metric": "error", "columns": "ratio", "paper": [], "column_names": ["1"], "row_names": names}
    rows = [{"method": m, "setting": s, "cell": "1", "last": str(i)} for i, (m, s) in enumerate(names)]
    (tmp_path / "settings_3.png").touch()  # of an earlier report
    shown = sweep_pictures(tmp_path, tmp_path, table, rows, [])
    assert {"![CDB: test error, % by tau](settings.png)", "![CB: test error, % by beta](settings_2.png)"} <= set(shown)
    axes = [drawn[name].axes[0] for name in ("settings.png", "settings_2.png")]
    assert [one.get_xlabel() for one in axes] == ["tau", "beta"] and not (tmp_path / "settings_3.png").exists()
    assert legend(drawn["settings_2.png"]) == ["CB", "CDB tau 1", "CDB tau 2", "CDB tau 5", "CE"]


def test_a_loss_has_the_colour_of_its_weighted_form_and_no_other_line_has(tmp_path, drawn):
    losses = ("softmax", "sigmoid", "focal 0.5", "focal 1", "focal 2", "another", "2")
    curves = {f"CB {loss}": {0.9: [1.0], 0.99: [2.0]} for loss in losses[:5]}
    panel = sweep_plots.Panel(curves, {loss: [3.0] for loss in losses}, {})
    sweep_plots.against_setting(tmp_path / "settings.png", "beta", {"a": panel}, "test error, %")
    lines = {line.get_label(): line for line in drawn["settings.png"].axes[0].get_lines()}
    lines = {name: lines[name] for name in (*curves, *losses)}  # without the ends of bars
    colours = {name: line.get_color() for name, line in lines.items()}
    assert all(colours[loss] == colours[f"CB {loss}"] for loss in losses[:5])
    assert len({colours[loss] for loss in losses}) == 7
    assert len({(line.get_color(), repr(line._dash_pattern)) for line in lines.values()}) == 12


def test_classes_are_whole_numbers(tmp_path, drawn):
    sweep_plots.effective_number(tmp_path / "effective_number.png", np.array([9, 90]), (0.9,))
    axes = drawn["effective_number.png"].axes[0]
    assert list(axes.get_lines()[0].get_xdata()) == [1, 2] and list(axes.get_lines()[0].get_ydata()) == [90, 9]
    assert set(labels(axes.xaxis)) <= {"", "0", "1", "2", "3"}


def test_a_matrix_names_its_columns_without_overprinting(tmp_path, drawn):
    figures = {("CE", f"imbalance factor {i}"): [1.0] * (1 + i % 3) for i in range(14)}
    columns = [column for _, column in figures]
    sweep_plots.matrix(tmp_path / "matrix.png", ["CE"], columns, figures, "test error, %", "data imbalance")
    figure = drawn["matrix.png"]
    (axes,) = figure.axes
    assert axes.get_xlabel() == "data imbalance" and labels(axes.xaxis)[:14] == columns
    assert figure.get_suptitle().startswith("test error, %: mean of 1 to 3 runs, last epoch\n")
    assert {text.get_rotation() for text in axes.get_xticklabels()} == {45}
    sweep_plots.matrix(tmp_path / "small.png", ["CE"], ["10"], {("CE", "10"): [1.0]}, "top-5 test error, %", "ratio")
    small = drawn["small.png"]
    assert small._suptitle.get_window_extent().width < small.bbox.width
    assert {text.get_rotation() for text in small.axes[0].get_xticklabels()} == {0}


@pytest.mark.parametrize("counts", [(12000, 30000), (6, 120), (50, 5000), (1, 900_000)])
def test_logarithmic_axes_have_few_plain_numbers_of_one_size(tmp_path, drawn, counts):
    sweep_plots.weights_by_count(tmp_path / "a.png", np.array(counts), (0.9, 0.99999))
    sweep_plots.effective_number(tmp_path / "b.png", np.array(counts), (0.9, 0.99999))
    for axis in (drawn["a.png"].axes[0].xaxis, drawn["a.png"].axes[0].yaxis, drawn["b.png"].axes[0].yaxis):
        low, high = axis.get_view_interval()
        texts = [text for text in axis.get_ticklabels(which="both") if text.get_text()]
        inside = [text for text in texts if low <= float(text.get_text()) <= high]
        assert 2 <= len(inside) <= 9 and {text.get_fontsize() for text in texts} == {8}
        assert not any("e" in text.get_text() for text in inside)
        assert [float(text.get_text()) for text in inside] == sorted({float(text.get_text()) for text in inside})


def test_reliability_gives_the_table_s_error_and_says_that_runs_are_pooled(tmp_path, drawn):
    class Run:
        def __init__(self, ece):
            self.ece = ece

        def calibration(self, checkpoint):
            return np.array([[5.0, 5.0], [1.0, 4.5], [1.0, 5.0]])

        def test_metrics(self, checkpoint):
            return {"ece": self.ece}

    lines = reliability.section({"CE": [Run(0.1), Run(0.2)]}, "last", tmp_path)
    figure = drawn["reliability.png"]
    assert figure.axes[0].get_title() == "CE, ECE 15.0 ± 7.1 %" and "ECE is the mean over its runs" in lines[1]
    assert "images of all runs together" in figure.get_suptitle()
    assert not any(line.get_clip_on() for line in figure.axes[0].get_lines() if line.get_label() == "accuracy")
    lines = reliability.section({"": [Run(0.1)]}, "last", tmp_path)
    assert drawn["reliability.png"].axes[0].get_title() == "ECE 10.0 %" and "mean" not in lines[1]


def test_curves_have_their_legend_beside_and_whole_epochs(tmp_path, drawn):
    curve = np.array([1.0, 2.0, 3.0]), np.arange(6.0).reshape(2, 3)
    methods = {f"a long name of a method that is the {i:02}th": curve for i in range(10)}
    plots.curves(tmp_path / "curves.png", {"training loss": methods, "accuracy (%)": methods})
    figure = drawn["curves.png"]
    assert len(set(legend(figure))) == 10 and all(axes.get_legend() is None for axes in figure.axes)
    assert "mean of 2 runs" in figure.legends[0].get_title().get_text()
    assert figure.legends[0].get_window_extent().x0 > max(axes.get_window_extent().x1 for axes in figure.axes)
    for axes in figure.axes:
        assert {"1", "2", "3"} <= {text for text in labels(axes.xaxis) if text} <= {str(i) for i in range(5)}
    one = np.array([1.0]), np.array([[1.0]])
    plots.curves(tmp_path / "one.png", {"loss": {"training": one}, "accuracy (%)": {"training, overall": one}})
    assert [axes.get_legend().get_texts()[0].get_text() for axes in drawn["one.png"].axes] == [
        "training",
        "training, overall",
    ]


def test_bars_of_classes_are_explained(tmp_path, drawn):
    values = np.array([[0.5, 0.25], [0.75, 0.5]])
    plots.classes(tmp_path / "classes.png", ["a", "b"], np.array([9, 1]), {"CE": values, "CB": values})
    assert drawn["classes.png"].axes[1].get_xlabel() == "test accuracy (%)\nmean of 2 runs, bars: ± standard deviation"
    plots.classes(tmp_path / "one.png", ["a", "b"], np.array([9, 1]), {"": values[:1]})
    assert drawn["one.png"].axes[1].get_xlabel() == "test accuracy (%)"


def test_the_last_panel_of_each_column_has_the_numbers_of_its_axis():
    _, panels = canvas.grid(dict.fromkeys("abcde"), 2.0, 2.0)
    for axes in panels:
        canvas.finish(axes, "", "epoch", "weight")
    canvas.label_outer(panels)
    numbered = [axes.xaxis.get_tick_params()["labelbottom"] for axes in panels]
    assert numbered == [bool(axes.get_xlabel()) for axes in panels] == [False, False, True, True, True]
    assert [bool(axes.get_ylabel()) for axes in panels] == [True, False, False, True, False]
