import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from trained_run import history

from evaluation import figures

VARIANTS = ["torch_bn", "bn", "in", "bin", "ln", "gn", "none"]


def test_error_is_one_minus_accuracy_and_gaps_are_left_out():
    table = history([0.2, 0.5, 0.9])
    table.loc[table["epoch"] == 2, "accuracy"] = np.nan
    epochs, error = figures.series(table, "val", "error")
    assert epochs.tolist() == [1, 3] and error == pytest.approx([0.8, 0.1])


def test_spread_keeps_order_distance_and_range():
    placed = figures.spread([0.5, 0.5, 0.51, 0.98, 1.0], 0.1)
    assert np.diff(placed).min() >= 0.1 - 1e-9
    assert min(placed) >= 0 and max(placed) <= 1
    assert figures.spread([0.1, 0.9], 0.1) == pytest.approx([0.1, 0.9])
    assert figures.spread([], 0.1) == []
    crowded = figures.spread([0.5] * 30, 0.1)
    assert min(crowded) >= 0 and max(crowded) <= 1 + 1e-9


def test_every_variant_has_its_own_colour_in_every_figure():
    colours = figures.colours_for(VARIANTS)
    assert len(set(colours)) == 7
    assert figures.colours_for(VARIANTS[::-1])[::-1] == colours
    assert len(set(figures.colours_for(["a", "b"], ["bn", "bn"]))) == 2
    seeds = [norm for norm in ("bn", "gn", "none") for _ in range(3)]  # more runs than colours
    assert figures.colours_for([f"{i}" for i in range(9)], seeds) == [figures.VARIANT_COLOURS[norm] for norm in seeds]


def test_a_key_with_a_row_to_itself_is_no_higher_than_it_needs():
    runs = [figures.Curve(f"seed{i}", "blue", history([0.1, 0.4])) for i in range(3)]
    three = [("loss", "Loss"), ("accuracy", "Accuracy"), ("f1_macro", "F1")]
    alone, beside = (figures.curves(runs, panels) for panels in (three, [*three, ("error", "Error")]))
    assert alone.get_figheight() < 0.8 * beside.get_figheight()
    for figure, key in ((alone, alone.axes[3]), (beside, beside.axes[4])):
        figure.canvas.draw()
        heights = [line.get_ydata()[0] for line in key.lines]
        assert len(heights) == 5 and 0 < min(heights) < max(heights) < 1
        gaps = -np.diff(heights) * key.get_window_extent().height / figure.dpi
        assert gaps.min() > 0.2  # inches: a line of text and more


def test_curves_of_seven_variants_show_train_dashed_and_val_solid():
    runs = [
        figures.Curve(v, c, history([0.1, 0.4])) for v, c in zip(VARIANTS, figures.colours_for(VARIANTS), strict=True)
    ]
    figure = figures.curves(runs)
    for axis in figure.axes[:5]:
        styles = [line.get_linestyle() for line in axis.get_lines()]
        assert styles.count("--") == styles.count("-") == 7
        assert {text.get_text() for text in axis.texts} == set(VARIANTS)
    assert Image.open(io.BytesIO(figures.to_png(figure, dpi=40))).height == 288


@pytest.mark.parametrize("draw", [lambda runs: figures.curve_panel(runs, "loss"), figures.curves])
def test_long_names_at_the_ends_of_curves_stay_clear_of_the_edge_and_of_the_next_panel(draw):
    runs = [figures.Curve(name, "#000000", history([0.1, 0.4])) for name in ("2_lstm_attention", "W" * 12)]
    figure = draw(runs)
    figure.draw_without_rendering()
    axes = [axis for axis in figure.axes if axis.axison]
    for axis in axes:
        right = max(text.get_window_extent().x1 for text in axis.texts)
        left_of_next = [other.get_tightbbox().x0 for other in axes if other.get_position().x0 > axis.get_position().x1]
        assert right <= min([figure.bbox.x1, *left_of_next])


def test_one_evaluation_is_no_line():
    table = history([0.1, 0.4])
    assert figures.Curve("a", "#000000", table).has_a_line
    assert not figures.Curve("a", "#000000", table[table["epoch"] == 1]).has_a_line
    running = pd.concat([table[table["epoch"] == 1], table.assign(split="running")])  # the trainer's own, not drawn
    assert not figures.Curve("a", "#000000", running).has_a_line


def test_a_run_without_measurements_still_gives_a_figure():
    empty = pd.DataFrame(columns=["epoch", "split", "loss", "accuracy", "f1_micro", "f1_macro"])
    figure = figures.curve_panel([figures.Curve("a", "#000000", empty)], "loss")
    assert "not measured" in figures.to_svg(figure, "empty")


def test_a_curve_below_zero_is_inside_its_panel():
    table = history([-0.02, -0.01, -0.03])  # as an adjusted Rand index may be
    axis = figures.curve_panel([figures.Curve("a", "#000000", table)], "accuracy").axes[0]
    assert axis.get_ylim()[0] < -0.03 and axis.get_ylim()[1] > -0.01


@pytest.mark.parametrize("classes", [2, 25, 100])
def test_confusion_matrix_names_every_class_and_writes_counts_while_they_are_legible(classes):
    counts = np.eye(classes, dtype=int) * 9
    counts[0, 1] = 1
    axis = figures.confusion_matrix(counts, [f"class-{i}" for i in range(classes)]).axes[0]
    assert len(axis.get_yticklabels()) == classes
    assert len(axis.texts) == (classes + 1 if classes <= 25 else 0)
    assert axis.get_images()[0].get_array()[0, 1] == pytest.approx(0.1)


def test_svg_is_well_formed_self_contained_and_follows_the_page():
    rows = [{"label": "A<b>&", "recall": 0.5, "low": 0.2, "high": 0.8, "support": 4}]
    svg = figures.to_svg(figures.recall_per_class(rows), 'recall "of" <every> class')
    ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert "http" not in svg and "<style" not in svg
    assert "var(--ink)" in svg and "var(--figure-font)" in svg and figures.INK not in svg
    assert "A&lt;b&gt;" in svg and "<b>" not in svg


def test_reliability_draws_every_bin():
    bins = [{"low": 0.4, "high": 0.6, "count": 3, "confidence": 0.5, "accuracy": 0.3}]
    top, bottom = figures.reliability(bins, 0.2).axes
    assert "0.200" in top.get_title(loc="left")
    assert bottom.patches[0].get_height() == 3


def test_dollars_in_names_are_no_formulas():
    figure = figures.confusion_matrix(np.eye(2, dtype=int), ["$a_$", r"x$\foo$"])
    assert "$a_$" in figures.to_svg(figure, "a matrix")
