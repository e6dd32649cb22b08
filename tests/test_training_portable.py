import pytest

from training.portable import last_part, portable_command, portable_path


@pytest.mark.parametrize(
    "value, shown",
    [
        ("/data/sets/birds6.tar", "birds6.tar"),
        ("../shared/data/mathqa/", "mathqa"),
        ("recipes/vae/tiny.yaml", "tiny.yaml"),
        ("birds6.tar", "birds6.tar"),
        (0.5, 0.5),
        (None, None),
    ],
)
def test_of_a_path_the_last_part(value, shown):
    assert last_part(value) == shown
    inside = isinstance(value, str) and value.startswith("recipes/")
    assert portable_path(value) == (value if inside else shown)


@pytest.mark.parametrize(
    "words, shown",
    [
        (["/opt/x/train.py", "--path", "/data/my birds/b.tar"], "train.py --path b.tar"),
        (["train.py", "--path=/data/my birds", "--runs", "../runs"], "train.py '--path=my birds' --runs runs"),
        (
            ["train.py", "--vae", "~/runs/vae/tiny", "--recipe", "recipes/vae/tiny.yaml"],
            "train.py --vae tiny --recipe recipes/vae/tiny.yaml",
        ),
        (["train.py", "--lr", "1e-4", "--model", "resnet"], "train.py --lr 1e-4 --model resnet"),
    ],
)
def test_a_command_names_no_folder_outside_its_own(words, shown):
    assert portable_command(words) == shown
