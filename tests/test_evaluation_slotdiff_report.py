from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from evaluation.runs import Run
from evaluation.slotdiff_report import number_figures

LABELS = ["ancestral 1000", "DDIM 200", "DDIM 50", "DPM-Solver++ 20"]


@pytest.mark.parametrize("metric", ["fid_clean", None])
def test_the_names_of_samplers_that_take_equally_long_stand_apart(tmp_path, metric):
    values = {"seconds": 0.5, "mse": [60.0, 61.0, 62.0], "distance": [200.0, 201.0, 202.0]}
    study = {"metric": metric, "samplers": [{"label": label, **values} for label in LABELS]}
    study["floors"] = [{"label": "VAE alone", "mse": 8.0, "distance": 201.0}]
    run = Run(tmp_path, {}, {}, {"evaluation": {"samplers": study}})
    figure = number_figures(run)["samplers"]
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    texts = legend.get_texts()
    assert [text.get_text() for text in texts] == ["VAE alone", *LABELS]
    boxes = [text.get_window_extent() for text in texts]
    assert not any(one.overlaps(other) for one, other in combinations([*boxes, figure.axes[0].get_tightbbox()], 2))
    assert all(figure.bbox.contains(*corner) for box in boxes for corner in box.corners())
