from pathlib import Path

import pandas as pd
import pytest

from evaluation.comparison import ComparisonRules
from evaluation.families import FAMILIES, family_module, source_files
from evaluation.options import Options
from evaluation.runs import Run, RunError
from evaluation.sources import model_code


def run_of(family: str) -> Run:
    return Run(Path("x"), {"model_family": family}, {}, {}, pd.DataFrame())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_brings_what_the_protocol_says(family):
    run = run_of(family)
    assert all(callable(getattr(family_module(run), name)) for name in ("evaluate", "settings"))
    report = family_module(run, "report")
    functions = ("observe", "number_figures", "build_report", "save_galleries")
    assert all(callable(getattr(report, name)) for name in functions)
    assert report.PANELS[0][0] == "loss" and all(name.endswith(".png") for name in report.PUBLISHED_FIGURES)
    assert callable(family_module(run, "card").card_content)
    rules = family_module(run, "comparison").RULES
    assert isinstance(rules, ComparisonRules) and rules.metric in {column.key for column in rules.columns}


@pytest.mark.parametrize("family", ["text2math", "vae"])
def test_other_data_are_refused_by_a_family_that_would_not_look_at_them(family):
    run = run_of(family)
    family_module(run).settings(run, Options())
    with pytest.raises(RunError, match=f"--data elsewhere: a run of the family {family}"):
        family_module(run).settings(run, Options(data=Path("elsewhere")))


def test_an_unknown_family_is_named():
    with pytest.raises(RunError, match="perceptron"):
        family_module(run_of("perceptron"))


def test_a_familys_files_leave_another_familys_evaluation_alone():
    resnet = {path.name for path in source_files("resnet")}
    text2math = {path.name for path in source_files("text2math")}
    assert "resnet.py" in resnet - text2math and "text2math_report.py" in text2math - resnet
    assert {"report.py", "pipeline.py", "accuracy.py", "bootstrap.py"} <= resnet & text2math
    assert "lookup.py" in text2math - resnet and "grad_cam.py" in resnet - text2math


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("resnet", {"modeling_resnet.py", "normalization_passes.py"}),
        ("text2math", {"beam_search.py", "programs.py", "tokenization_text2math.py"}),
        ("slotattn", {"slot_attention.py", "slot_decoders.py", "slot_noise.py"}),
        ("slotdiff", {"scheduling_ddpm.py", "slot_unet_blocks.py", "vector_quantizer.py", "diffusion_noise.py"}),
        ("vae", {"modeling_vqvae.py", "vector_quantizer.py"}),
    ],
)
def test_a_familys_model_is_among_its_files(family, names):
    assert names <= {path.name for path in model_code(family)} <= {path.name for path in source_files(family)}
