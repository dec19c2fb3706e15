"""What the pictures say, read from their figures: names, numbers of runs, ticks and panels."""

import json

import numpy as np
import pytest

from cbjax.report import canvas, fonts, heat_maps, plots, reliability, sweep_plots
from cbjax.report.sweep_pictures import sweep_pictures
from cbjax.report.swings import Swing


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would have been written, by the names of their files; no title of one may be cut off."""
    figures = {}

    def keep(figure, path):
        figure.canvas.draw()
        for text in figure.texts:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, f"cut off: {text.get_text()}"
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
    (said,) = [text for text in right.texts if text.get_text() not in ("many", "medium", "few")]
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


def test_weights_are_drawn_for_the_tau_of_cdb_alone(tmp_path, drawn):
    names = [["CDB", "tau 3"], ["LA", "tau 4"], ["VS", "tau 6"]]
    table = {"metric": "error", "columns": "ratio", "paper": [], "column_names": ["1"], "row_names": names}
    table["rows"] = ["method", "setting"]
    rows = [{"method": m, "setting": s, "cell": "1", "last": "5"} for m, s in names]
    runs = [{"name": m, "labels": {"method": m, "setting": s}} for m, s in names]
    runs[0]["weights"], runs[1]["weights"] = "difficulty", "uniform"
    (tmp_path / "VS").mkdir()  # of a sweep that does not say the weights: its run does
    (tmp_path / "VS" / "config.json").write_text(json.dumps({"weights": {"name": "uniform"}, "loss": {"tau": 6}}))
    shown = sweep_pictures(tmp_path, tmp_path, table, rows, runs)
    assert "![Weight against difficulty](weights_by_difficulty.png)" in shown
    assert legend(drawn["weights_by_difficulty.png"]) == [f"tau {tau}" for tau in ("0.5", "1", "1.5", "2", "3", "5")]
    del drawn["weights_by_difficulty.png"]
    assert "difficulty" not in "".join(sweep_pictures(tmp_path, tmp_path, table, rows[1:], runs))
    assert "weights_by_difficulty.png" not in drawn


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
    axes, scale = figure.axes
    assert axes.get_xlabel() == "data imbalance" and labels(axes.xaxis)[:14] == columns
    assert figure.get_suptitle() == "test error, %: mean of 1 to 3 runs, last epoch, with ± standard deviation"
    assert [text.get_text() for text in axes.texts[:3]] == ["1.00", "1.00", "±0.00"], "one run has no deviation"
    assert [text.get_text() for text in scale.get_yticklabels()] == ["lowest\nof its column", "highest\nof its column"]
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
        noun, settings = "image", {"loss.name": "softmax"}

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


def class_map(drawn):
    """The panels of a map, without its scale."""
    return drawn["a.png"].axes[:-1]


def test_maps_show_each_class_of_each_seed_and_its_group(tmp_path, drawn):
    counts, names = np.array([10, 10, 300, 50]), ["ant", "bee", "cat", "dog"]
    random = np.random.default_rng(0)
    epochs, weights = np.arange(1.0, 401.0), random.uniform(0.5, 2, (3, 400, 4))
    weights[0, 7, 2] = 8.0
    constant = np.broadcast_to([1.5, 1.5, 0.25, 0.75], (3, 400, 4))
    values = {"CDB": (epochs, weights), "CB": (epochs, constant)}
    marked = {"CDB": (Swing(20, 24, 0.5), 2)}
    heat_maps.class_weights(tmp_path / "a.png", names, counts, values, marked)
    cdb, cb = class_map(drawn)
    shown = cdb.images[0].get_array()
    # Rows: all seeds of the most frequent class, then the next one; classes of equal counts have rows of their own.
    np.testing.assert_array_equal(shown, weights[:, :, [2, 3, 0, 1]].transpose(2, 0, 1).reshape(12, 400))
    assert cdb.images[0].get_extent() == [0.5, 400.5, 3.5, -0.5]
    assert labels(cdb.yaxis)[:4] == ["cat (300)", "dog (50)", "ant (10)", "bee (10)"]
    assert [bar.get_width() for bar in cb.patches] == [0.25, 0.75, 1.5, 1.5] and not cb.images
    assert [text.get_text() for text in cb.texts] == ["many", "medium", "few"]
    assert cdb.get_title() == "CDB\nswings most in seed 2, epochs 20 to 24"
    assert (cdb.images[0].norm.vmin, cdb.images[0].norm.vmax) == (1 / 8, 8)
    assert drawn["a.png"].get_suptitle() == "each class has 3 thin rows, one per seed"


def test_weights_that_stay_are_bars_of_their_length_without_a_scale_of_colours(tmp_path, drawn):
    weights = np.broadcast_to([0.0, 0.05, 2.95], (2, 5, 3))  # 0.05 is less than 1 / 2.95, where colours end
    counts, names = np.array([90, 30, 1]), ["ant", "bee", "cat"]
    heat_maps.class_weights(tmp_path / "a.png", names, counts, {"CB": (np.arange(1.0, 6.0), weights)}, {})
    (cb,) = drawn["a.png"].axes
    assert [bar.get_width() for bar in cb.patches] == [0.0, 0.05, 2.95]
    assert drawn["a.png"].get_suptitle() == ""


def test_maps_of_many_classes_are_means_of_neighbours_and_keep_gaps(tmp_path, drawn):
    counts = np.arange(2100, 0, -1)
    accuracies = np.tile(np.arange(2100.0) / 21, (2, 3, 1))
    accuracies[:, 1, :10] = np.nan
    heat_maps.class_accuracies(
        tmp_path / "a.png",
        list(map(str, counts)),
        counts,
        {"": (np.array([1.0, 2, 4]), accuracies)},
        {},
        "held-out (%)",
    )
    (axes,) = class_map(drawn)
    shown = axes.images[0].get_array()
    assert shown.shape[0] <= heat_maps.ROWS
    np.testing.assert_allclose(shown[::2, 0], accuracies[0, 0].reshape(-1, 7).mean(axis=1))
    # The second of three even columns is epoch 2.5: the values of epoch 2, the last that was measured before.
    assert np.ma.getmaskarray(np.ma.masked_invalid(shown))[0].tolist() == [False, True, False]
    assert [text.split()[0] for text in labels(axes.yaxis)[:3]] == ["many", "medium", "few"]


def test_names_that_would_read_the_same_are_cut_elsewhere():
    names = [f"ce/{'a' * 60}/beta={beta},{'z' * 60}" for beta in (0.9, 0.99)]
    shown = canvas.distinct(names, 40)
    assert "beta=0.9," in shown[names[0]] and "beta=0.99" in shown[names[1]]
    assert all(len(text) <= 40 for text in shown.values())
    assert canvas.distinct(["a", "b" * 50], 20) == {"a": "a", "b" * 50: "b" * 10 + "…" + "b" * 9}
    far = [f"{'x' * 50}{middle}{'y' * 50}" for middle in ("\n", " ", "  ")]
    assert len(set(canvas.distinct(far, 20).values())) == 3


def test_a_loss_that_falls_far_has_a_logarithmic_axis_and_bands_stay_in_range(tmp_path, drawn):
    epochs = np.arange(1.0, 5.0)
    loss = np.array([[3.0, 0.3, 0.02, 0.01], [3.0, 0.1, 0.02, 0.01]])
    accuracy = np.array([[10.0, 90, 99, 100], [12.0, 100, 100, 90]])
    panels = {"training loss": {"CE": (epochs, loss)}, "accuracy (%)": {"CE": (epochs, accuracy)}}
    plots.curves(tmp_path / "curves.png", panels, {"CE": [2, 4]})
    left, right = drawn["curves.png"].axes
    assert left.get_yscale() == "log" and right.get_yscale() == "linear"
    assert left.get_ylim()[0] == pytest.approx(0.008)
    band = right.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == 100 and band.min() == pytest.approx(11 - np.sqrt(2))
    circles = right.get_lines()[1]
    assert circles.get_xydata().tolist() == [[2, 95], [4, 95]] and not circles.get_clip_on()
    assert "circle: best epoch of a run" in drawn["curves.png"].legends[0].get_title().get_text()
    plots.curves(tmp_path / "flat.png", {"loss": {"CE": (epochs, loss + 3)}})
    assert drawn["flat.png"].axes[0].get_yscale() == "linear"


def test_bars_end_at_0_and_100_percent_and_markers_there_are_whole(tmp_path, drawn):
    values = {"CE": np.array([[1.0, 0.0], [0.9, 0.3]]), "CB": np.array([[1.0, 0.0], [1.0, 0.0]])}
    plots.classes(tmp_path / "classes.png", ["a", "b"], np.array([150, 1]), values)
    right = drawn["classes.png"].axes[1]
    bars = [bar for container in right.containers for bar in container.lines[2][0].get_segments()]
    ends = np.sort(np.array(bars)[:, :, 0])
    np.testing.assert_allclose(ends, [[95 - 5 * np.sqrt(2), 100], [0, 15 + 15 * np.sqrt(2)], [100, 100], [0, 0]])
    assert not any(container.lines[0].get_clip_on() for container in right.containers)
    assert [text.get_text() for text in right.texts] == ["many", "few"], "groups are named"


def test_bins_with_few_images_look_otherwise_and_have_wide_intervals(tmp_path, drawn):
    sums = {"CE": np.array([[2.0, 400.0, 0.0], [0.4, 200.0, 0.0], [2.0, 200.0, 0.0]])}
    reliability.draw(tmp_path / "reliability.png", sums, {"CE": "3.0"}, "", "clip")
    full, pale = drawn["reliability.png"].axes[0].containers[1:]
    assert [one.get_label() for one in (full, pale)] == ["accuracy, 95 % interval", "fewer than 10 clips"]
    assert full.lines[0].get_xydata().tolist() == [[50, 50]] and pale.lines[0].get_xydata().tolist() == [[20, 100]]
    assert pale.lines[0].get_markerfacecolor() == "white" and pale.lines[0].get_linestyle() == "None"
    # Wilson's interval of 2 of 2, by its closed form n / (n + z²), and of a half, symmetric.
    ends = [container.lines[2][0].get_segments()[0][:, 1] for container in (full, pale)]
    np.testing.assert_allclose(ends[1], [100 * 2 / (2 + 1.959964**2), 100], rtol=1e-6)
    assert ends[0].mean() == pytest.approx(50) and 4 < np.ptp(ends[0]) / 2 < 5


def test_letters_without_a_font_are_named_and_others_find_one(tmp_path):
    assert fonts.lacking(["ant", "собака", "\U0010fffd"]) == "\U0010fffd", "no font has this private letter"
    figure = canvas.figure(1, 1)
    # DejaVu Sans lacks this letter; the STIX fonts that matplotlib brings along have it.
    text = figure.text(0, 0, "\u1d81")
    canvas.save(figure, tmp_path / "a.png")
    assert fonts.lacking([text.get_text()]) == "" and text.get_fontfamily()[0] == fonts.OWN


def test_a_title_over_a_small_picture_is_whole(tmp_path, drawn):
    two = {("CE", "10"): [1.0, 2.0]}
    sweep_plots.matrix(tmp_path / "one.png", ["CE"], ["10"], two, "top-5 balanced test error, %", "ratio")
    assert drawn["one.png"].get_suptitle().endswith("last epoch,\nwith ± standard deviation")
    panel = sweep_plots.Panel({"CB": {0.9: [1.0, 2.0, 3.0], 0.99: [2.0]}}, {}, {})
    sweep_plots.against_setting(tmp_path / "settings.png", "beta", {"a": panel}, "test error, %")
    sums = {"CE": np.array([[50.0, 50.0], [10.0, 45.0], [10.0, 50.0]])}
    reliability.draw(tmp_path / "r.png", sums, {"CE": "3"}, "images of all runs together; ECE: mean over runs")
    maps = {"CDB": (np.arange(1.0, 4.0), np.random.default_rng(0).uniform(0.5, 2, (100, 3, 2)))}
    heat_maps.class_weights(tmp_path / "maps.png", ["ant", "bee"], np.array([2, 1]), maps, {})
    assert set(drawn) == {"one.png", "settings.png", "r.png", "maps.png"}
