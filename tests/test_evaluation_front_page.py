import re

import numpy as np
import pytest
from PIL import Image
from test_evaluation_comparison import make
from test_evaluation_observations import predictions

from evaluation.front_page import build_front_page, studies_of, write_front_page
from evaluation.report import Gallery, Table, duration, render
from evaluation.runs import RunError


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs" / "resnet"
    study = [make(root / "norms", name, predictions(p, 0.9), norm=name) for name, p in (("bn", 0.9), ("none", 0.5))]
    return [make(root, "single", predictions(0.7, 0.9)), *study]


def test_a_folder_of_runs_is_a_study_and_single_runs_go_by_their_data(runs, tmp_path):
    other = make(tmp_path / "runs" / "resnet", "large", predictions(0.7, 0.9))
    other.recipe["data"] = {"image_size": 64}
    studies = studies_of([*runs, other])
    assert [[run.folder.name for run in members] for members in studies.values()] == [
        ["single"],
        ["bn", "none"],
        ["large"],
    ]


def test_the_page_has_every_number_marks_the_best_and_links_the_reports(runs, tmp_path):
    page = build_front_page(runs, tmp_path / "runs" / "report")
    tables = [block for block in page.sections[0].blocks if isinstance(block, Table) and block.columns[0] == "Run"]
    assert [[row[0].value for row in table.rows] for table in tables] == [["single"], ["bn", "none"]]
    assert tables[1].rows[0][0].href == "../resnet/norms/bn/report.html"
    assert tables[1].rows[0][1].best and not tables[1].rows[1][1].best
    html = render(page).replace("\u00a0", " ")
    for run in runs:
        assert f"{100 * run.metrics['metrics']['val']['accuracy']:.1f} %" in html
    (training,) = [value for name, value, _ in page.headline if name == "Training"]
    assert training == duration(sum(run.training["seconds"] for run in runs))
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:|//)""", html)


def test_the_best_run_of_a_study_shows_its_pictures(runs, tmp_path):
    for run, colour in zip(runs, (50, 100, 150), strict=True):
        (run.folder / "galleries").mkdir(parents=True)
        Image.fromarray(np.full((300, 100, 3), colour, np.uint8)).save(run.folder / "galleries" / "grad_cam.png")
    page = build_front_page(runs, tmp_path)
    (gallery,) = [block for block in page.sections[0].blocks if isinstance(block, Gallery)]
    assert [picture.lines for picture in gallery.groups[0][1]] == [["single"], ["bn"]]


def test_nothing_to_show_is_an_error(tmp_path):
    with pytest.raises(RunError, match="no evaluated run"):
        write_front_page([], tmp_path)
    assert not (tmp_path / "index.html").exists()
