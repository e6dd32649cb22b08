import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard
from trained_run import make_run
from trained_text2math import base_folder, evaluated_run
from trained_text2math import make_run as make_text2math

import evaluate_all
from training.checkpoints import write_manifest
from training.errors import RunError
from training.run_folder import RunFolder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root, cache = tmp_path_factory.mktemp("runs") / "study", tmp_path_factory.mktemp("cache")
    for norm in ("bn", "none"):
        make_run(root / norm, cache, norm=norm)
    assert evaluate_all.main([str(root), "--device", "cpu"]) == 0
    return root


@pytest.fixture
def copy(study, tmp_path):
    return shutil.copytree(study, tmp_path / "study")


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_every_run_gets_its_files_and_the_study_its_comparison(study):
    for run in (study / "bn", study / "none"):
        for name in (
            "report.html",
            "README.md",
            "predictions.npz",
            "galleries/grad_cam.png",
            "galleries/grad_cam.json",
        ):
            assert (run / name).is_file(), name
        for figure in ("curves", "confusion_matrix", "recall", "reliability"):
            assert (run / "figures" / f"{figure}.png").is_file()
    assert (study / "comparison.html").is_file()
    assert json.loads((study / "comparison.json").read_text())["differing"] == {"model.norm": ["bn", "none"]}


def test_a_flipped_bit_in_the_weights_is_an_error_that_names_the_file(copy, capsys):
    write_manifest(copy / "bn", [copy / "bn" / "model.safetensors", copy / "bn" / "config.json"])
    assert evaluate_all.main([str(copy), "--device", "cpu"]) == 0
    weights = bytearray((copy / "bn" / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (copy / "bn" / "model.safetensors").write_bytes(weights)
    assert evaluate_all.main([str(copy), "--device", "cpu"]) == 1
    assert "model.safetensors is damaged" in capsys.readouterr().err


def test_metrics_keep_what_training_wrote(study):
    content = metrics_of(study / "bn")
    assert content["training"]["seconds"] == 12.5 and content["name"] == "study/bn"
    assert set(content["metrics"]) == {"train", "val", "test"}
    assert content["evaluation"]["observations"]


def test_reports_load_nothing_from_elsewhere(study):
    for page in (study / "bn" / "report.html", study / "comparison.html"):
        html = page.read_text()
        assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:|//)""", html)
        assert not re.search(r"<script|<link|@import|url\(\s*[\"']?http", html)
        assert "http" not in re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html)


def test_the_report_says_the_numbers_of_metrics_json(study):
    html = (study / "bn" / "report.html").read_text().replace("\u00a0", " ")
    content = metrics_of(study / "bn")
    for numbers in content["metrics"].values():
        assert f"{100 * numbers['accuracy']:.1f} %" in html and f"{numbers['loss']:.3f}" in html
    assert re.search(r"Fewer than 5 exist: (only|none)", html)


def test_the_card_loads_back_with_every_metric_of_every_split(study):
    card = ModelCard.load(study / "bn" / "README.md")
    content = metrics_of(study / "bn")["metrics"]
    measured = {(r.dataset_split, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert len(measured) == 15
    assert measured["test", "Macro F1"] == pytest.approx(content["test"]["f1_macro"], abs=1e-6)
    assert measured["validation", "Expected calibration error"] == pytest.approx(
        content["val"]["calibration_error"], abs=1e-6
    )


def test_what_is_up_to_date_is_skipped_until_something_changes(copy, capsys):
    run = copy / "bn"
    before = (run / "metrics.json").stat().st_mtime_ns
    assert evaluate_all.main([str(run), "--device", "cpu"]) == 0
    assert "(up to date)" in capsys.readouterr().out
    assert (run / "metrics.json").stat().st_mtime_ns == before
    history = run / "history.csv"
    history.write_text(history.read_text().replace("0.5", "0.7"))
    assert evaluate_all.main([str(run), "--device", "cpu"]) == 0
    assert "(up to date)" not in capsys.readouterr().out
    assert (run / "metrics.json").stat().st_mtime_ns > before
    assert any("peaked at epoch 2 with 70.0" in sentence for sentence in metrics_of(run)["evaluation"]["observations"])


def test_a_broken_run_is_named_and_costs_only_itself(copy, capsys):
    broken = shutil.copytree(copy / "none", copy / "broken")
    (broken / "model.safetensors").write_bytes(b"not weights")
    assert evaluate_all.main([str(copy), "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert str(copy / "bn" / "report.html") in printed.out and str(copy / "comparison.html") in printed.out
    (line,) = [line for line in printed.err.splitlines() if str(broken) in line]
    assert line.startswith("error:") and "does not load" in line
    assert "1 failed, 2 evaluated" in printed.err


@pytest.mark.parametrize("what", ["absent folder", "unfinished run"])
def test_a_path_without_a_finished_run_is_an_error(tmp_path, capsys, what):
    folder = tmp_path / "x"
    if what == "unfinished run":
        folder.mkdir()
        (folder / "recipe.yaml").write_text("model_family: resnet\n")
    assert evaluate_all.main([str(folder)]) == 1
    assert str(folder) in capsys.readouterr().err


def test_an_unfinished_run_in_a_folder_is_passed_over(copy, capsys):
    (copy / "none" / "metrics.json").unlink()
    assert evaluate_all.main([str(copy), "--device", "cpu"]) == 0
    assert f"{copy / 'none'}: not finished, passed over" in capsys.readouterr().out


def test_named_runs_are_compared_where_out_says(copy, tmp_path):
    paths = [str(copy / "bn"), str(copy / "none")]
    assert evaluate_all.main([*paths, "--out", str(tmp_path / "out")]) == 0
    assert 'href="../study/bn/report.html"' in (tmp_path / "out" / "comparison.html").read_text()


def test_runs_named_in_two_ways_are_compared_where_both_lie(copy, monkeypatch):
    monkeypatch.chdir(copy)
    assert evaluate_all.main(["bn", str(copy / "none")]) == 0
    assert (copy / "comparison.html").is_file()


def test_an_evaluation_that_ends_before_its_card_is_done_again(copy, monkeypatch, capsys):
    def full(folder):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("evaluation.pipeline.write_card", full)
        assert evaluate_all.main([str(copy / "bn"), "--force"]) == 1
    assert evaluate_all.main([str(copy / "bn")]) == 0
    assert "up to date" not in capsys.readouterr().out


def test_publishing_takes_numbers_and_no_pictures_and_no_weights(copy, tmp_path):
    (copy / "bn" / "private.txt").write_text("stays")
    assert evaluate_all.main([str(copy / "bn"), "--publish", str(tmp_path / "cards")]) == 0
    target = tmp_path / "cards" / "resnet-study-bn"
    published = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    figures = {f"figures/{name}.png" for name in ("curves", "confusion_matrix", "recall", "reliability")}
    assert published == {"README.md", "metrics.json", "history.csv", *figures}
    assert not re.search(r"galleries|report\.html", (target / "README.md").read_text())


def test_two_runs_of_one_name_are_not_published_over_each_other(copy, tmp_path, capsys):
    shutil.copytree(copy / "bn", copy / "bn_old")
    runs, out = [str(copy / "bn"), str(copy / "bn_old")], tmp_path / "out"
    assert evaluate_all.main([*runs, "--out", str(out), "--publish", str(tmp_path / "cards")]) == 1
    assert "bn_old: not published" in capsys.readouterr().err
    assert json.loads((out / "comparison.json").read_text())["metrics"].keys() == {"bn", "bn_old"}
    assert (tmp_path / "cards" / "resnet-study-bn" / "README.md").is_file()


def test_a_run_that_is_being_evaluated_is_not_evaluated_a_second_time(copy, capsys):
    with RunFolder(copy / "bn").locked():
        assert evaluate_all.main([str(copy / "bn")]) == 0  # up to date: nothing is written
        assert evaluate_all.main([str(copy / "bn"), "--force"]) == 1
    assert "another run or evaluation is writing to" in capsys.readouterr().err


def test_publishing_a_study_gives_a_page_that_leads_to_the_cards(copy, tmp_path, capsys):
    page = tmp_path / "cards" / "resnet-study" / "README.md"
    page.parent.mkdir(parents=True)
    (page.parent / "analysis.md").write_text("Norms help.\n")
    assert evaluate_all.main([str(copy), "--publish", str(tmp_path / "cards")]) == 0
    assert str(page.parent) in capsys.readouterr().out
    text = page.read_text()
    assert "## Analysis\n\nNorms help.\n" in text
    for run in ("bn", "none"):
        accuracy = metrics_of(copy / run)["metrics"]["val"]["accuracy"]
        (row,) = re.findall(rf"^\| \[{run}\].*$", text, re.MULTILINE)
        assert f"{100 * accuracy:.1f}\u00a0%" in row
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) >= 3 and all((page.parent / link).is_file() for link in links)


def test_publishing_with_weights_gives_a_loadable_folder(copy, tmp_path):
    from models import ResNet6n2ForImageClassification

    assert evaluate_all.main([str(copy / "bn"), "--publish", str(tmp_path), "--with-weights", "full"]) == 0
    model = ResNet6n2ForImageClassification.from_pretrained(tmp_path / "resnet-study-bn")
    assert model.config.num_labels == 4


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A study of two text-to-program runs, evaluated."""
    root, base = tmp_path_factory.mktemp("runs") / "study", base_folder(tmp_path_factory)
    shutil.copytree(evaluated_run(base), root / "1_pointer")
    make_text2math(root / "2_plain", base, pointer=False)
    assert evaluate_all.main([str(root), "--device", "cpu"]) == 0
    return root


def test_a_text_to_program_study_gets_reports_and_a_comparison(programs):
    for run in (programs / "1_pointer", programs / "2_plain"):
        for name in (
            "report.html",
            "README.md",
            "predictions.json",
            "predictions/val.json",
            "galleries/attention.json",
        ):
            assert (run / name).is_file(), name
    comparison = json.loads((programs / "comparison.json").read_text())
    assert comparison["differing"] == {"model.pointer": [True, False]}
    html = (programs / "comparison.html").read_text()
    assert "look-up, no learning" in html and "On the same problems pointer is better than chance" in html
    assert "http" not in re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html)


def test_widths_measured_before_stay_up_to_date_and_new_ones_are_not(programs, tmp_path, capsys):
    root = shutil.copytree(programs / "1_pointer", tmp_path / "run")
    options = ["--device", "cpu"]
    assert evaluate_all.main([str(root), *options, "--beams", "4"]) == 0
    assert "(up to date)" in capsys.readouterr().out
    assert evaluate_all.main([str(root), *options, "--beams", "2"]) == 0
    assert "(up to date)" not in capsys.readouterr().out
    assert metrics_of(root)["evaluation"]["beams"] == [1, 2, 4, 10]


def test_the_users_checker_is_run_on_every_split(programs, tmp_path, capsys):
    checker = tmp_path / "checker.py"
    checker.write_text("import json, sys; print(len(json.load(open(sys.argv[1]))), 'records read')")
    before = (programs / "1_pointer" / "predictions" / "val.json").read_bytes()
    options = ["--device", "cpu", "--checker", str(checker)]
    assert evaluate_all.main([str(programs / "1_pointer"), *options]) == 0
    said = capsys.readouterr().out
    assert "60 records read" in said and "30 records read" in said
    assert (programs / "1_pointer" / "predictions" / "val.json").read_bytes() == before


def test_a_checker_without_predictions_is_an_error(study, tmp_path, capsys):
    checker = tmp_path / "checker.py"
    checker.write_text("")
    assert evaluate_all.main([str(study / "bn"), "--device", "cpu", "--checker", str(checker)]) == 1
    assert "none of these runs has predictions" in capsys.readouterr().err


def test_published_programs_carry_no_problem(programs, tmp_path):
    assert evaluate_all.main([str(programs / "1_pointer"), "--publish", str(tmp_path), "--device", "cpu"]) == 0
    target = next(tmp_path.iterdir())
    published = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert {"README.md", "metrics.json", "history.csv", "figures/by_length.png"} <= published
    assert not any("attention" in name or "predictions" in name or "generated" in name for name in published)
    problems = json.loads((programs / "1_pointer" / "predictions" / "val.json").read_text())
    text = "".join((target / name).read_text() for name in published if not name.endswith(".png"))
    assert not any(record["Problem"] in text for record in problems)


def test_options_are_checked(capsys):
    for arguments in (
        ["--batch-size", "0"],
        ["--with-weights", "half"],
        ["--splits", "tune"],
        ["--beams", "0"],
        ["--checker", "absent"],
    ):
        with pytest.raises(SystemExit) as stopped:
            evaluate_all.main(arguments)
        assert stopped.value.code == 2


def test_without_arguments_all_runs_get_a_front_page(copy, tmp_path, monkeypatch, capsys):
    root = tmp_path / "elsewhere"
    shutil.copytree(copy, root / "runs" / "resnet" / "norms")
    monkeypatch.chdir(root)
    assert evaluate_all.main([]) == 0
    page = (root / "runs" / "report" / "index.html").read_text()
    assert "../resnet/norms/bn/report.html" in page and "runs/report/index.html" in capsys.readouterr().out
    for run in ("bn", "none"):
        numbers = metrics_of(root / "runs" / "resnet" / "norms" / run)["metrics"]["val"]
        assert f"{100 * numbers['accuracy']:.1f}\u00a0%" in page
    monkeypatch.chdir(tmp_path)
    assert evaluate_all.main(["--runs", "elsewhere/runs"]) == 0
    assert "elsewhere/runs/report/index.html" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    monkeypatch.chdir(root)

    def unreadable(folders, out):
        raise RunError("predictions.npz is damaged")

    monkeypatch.setattr(evaluate_all, "write_front_page", unreadable)
    assert evaluate_all.main([]) == 1 and "error: predictions.npz is damaged" in capsys.readouterr().err
