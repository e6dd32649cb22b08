import pytest

from evaluation.runs import Run
from evaluation.scene_card import data_limit, data_sentence, data_sources, slot_fields, slot_limits
from evaluation.scene_scores import FOREGROUND


def run(tmp_path, metrics=None, **data) -> Run:
    return Run(tmp_path, {"data": data}, {"num_slots": 7}, {"metrics": metrics or {}})


@pytest.mark.parametrize(
    "path, kind, cited",
    [(None, "generated", True), ("/data/clevrtex_full", "imagefolder", True), ("/data/x.tar", "imagefolder", False)],
)
def test_the_card_says_whose_the_data_are(tmp_path, path, kind, cited):
    scenes = run(tmp_path, num_train=4000, **({"path": path} if path else {}))
    assert slot_fields(scenes)["dataset_type"] == kind
    assert any("ClevrTex" in source for source in data_sources(scenes)) == cited
    assert ("4,000 for training" in data_sentence(scenes)) == ("drawn scenes" in data_limit(scenes)) == (path is None)
    assert "/data" not in data_sentence(scenes) and data_limit(scenes) == slot_limits(scenes)[-1]


@pytest.mark.parametrize("nested", [False, True])
def test_the_order_of_slots_is_that_of_their_beginning(tmp_path, nested):
    for init, said in (("sampled", "slots have no order"), ("learned", "slots start from learned vectors")):
        scenes = run(tmp_path)
        scenes.config |= {"slot_config": {"slot_init": init}} if nested else {"slot_init": init}
        assert said in slot_limits(scenes)[0]


def test_how_sure_the_foreground_score_is_is_a_limit(tmp_path):
    numbers = {"val": {"samples": 1200, FOREGROUND: 0.7, f"{FOREGROUND}_interval": [0.68, 0.74]}}
    measured = run(tmp_path, numbers)
    measured.metrics["evaluation"] = {"splits": {"val": {}}}
    said = " ".join(slot_limits(measured)).replace("\u00a0", " ")
    assert "into 7 slots" in said and "1,200 val scenes, so it is known to about 3.0 points" in said
    assert "Foreground ARI" not in " ".join(slot_limits(run(tmp_path)))
