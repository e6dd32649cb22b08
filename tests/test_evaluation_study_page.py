from trained_run import make_run

from evaluation.report import Cell, Table
from evaluation.runs import load_run
from evaluation.study_page import markdown_table, publish_studies


def test_a_table_in_markdown_keeps_bold_notes_links_and_bars():
    rows = [[Cell("bn", href="../bn/README.md"), Cell("85.2 %", "78 to 91 %", best=True)], ["a|b", "80.0 %"]]
    assert markdown_table(Table(["Run", "Accuracy"], rows, "Best in bold.")) == (
        "| Run | Accuracy |\n"
        "| --- | ---: |\n"
        "| [bn](../bn/README.md) | **85.2 %** (78 to 91 %) |\n"
        "| a\\|b | 80.0 % |\n"
        "\n"
        "*Best in bold.*"
    )


def test_one_run_of_a_study_makes_no_page(tmp_path, tmp_path_factory):
    alone = make_run(tmp_path / "runs" / "bn", tmp_path_factory.mktemp("cache"), steps=1)
    assert load_run(alone).published_name == "resnet-study-bn"
    assert publish_studies([alone], tmp_path / "cards") == []
