"""`python -m evaluation.segment`: a user's own pictures to masks and slots."""

import shutil

import numpy as np
import pytest
from PIL import Image
from trained_slotattn import make_run

import evaluation.loading
from data.clevrtex import ClevrtexData, image_processor, load_clevrtex, pixels_of
from evaluation.options import Options
from evaluation.runs import RunError, load_run
from evaluation.segment import OUTSIDE, Segmenter, full_mask, main, read_square
from training.checkpoints import verify, write_manifest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    return make_run(tmp_path_factory.mktemp("runs") / "one", base)


@pytest.fixture
def pictures(tmp_path):
    """A wide, a high and a small picture."""
    paths = []
    for name, size in (("wide.png", (60, 40)), ("high.jpg", (30, 50)), ("small.png", (9, 9))):
        pixels = np.random.default_rng(len(paths)).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(tmp_path / name)
        paths.append(tmp_path / name)
    return paths


def test_masks_slots_and_sheets_are_written(run, pictures, tmp_path, capsys):
    assert main([str(run), *map(str, pictures), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("slots win a pixel") == 3
    sides = {"wide": ((60, 40), (10, 0, 50, 40)), "high": ((30, 50), (0, 10, 30, 40)), "small": ((9, 9), (0, 0, 9, 9))}
    for name, (size, box) in sides.items():
        with Image.open(tmp_path / "out" / f"{name}_slots.png") as image:
            assert image.mode == "P" and image.size == size
            mask = np.asarray(image)
        with np.load(tmp_path / "out" / f"{name}_slots.npz", allow_pickle=False) as stored:
            slots = dict(stored)
        assert tuple(slots["box"]) == box and slots["slots"].shape == (4, 16)
        assert slots["masks"].shape == (4, 16, 16) and slots["contents"].shape == (4, 16, 16, 3)
        np.testing.assert_allclose(slots["masks"].sum(axis=0), 1, atol=1e-5)
        assert np.array_equal(slots["segments"], slots["masks"].argmax(axis=0))
        left, upper, right, lower = box
        inside = np.zeros_like(mask, dtype=bool)
        inside[upper:lower, left:right] = True
        assert (mask[~inside] == OUTSIDE).all() and mask[inside].max() < 4
        assert Image.open(tmp_path / "out" / f"{name}_sheet.png").width > 7 * 96


def test_a_published_checkpoint_without_a_recipe_gives_the_same_masks(run, pictures, tmp_path):
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    (tmp_path / "published").mkdir()
    for name in names:
        shutil.copy(run / name, tmp_path / "published" / name)
    for folder, out in ((run, "own"), (tmp_path / "published", "theirs")):
        assert main([str(folder), str(pictures[0]), "--out", str(tmp_path / out), "--device", "cpu"]) == 0
    own, theirs = (np.asarray(Image.open(tmp_path / out / "wide_slots.png")) for out in ("own", "theirs"))
    assert np.array_equal(own, theirs)


def test_a_folder_of_pictures_gets_no_masks_that_would_count_as_true_ones(run, pictures, capsys):
    before = sorted(path.name for path in pictures[0].parent.iterdir())
    with pytest.raises(SystemExit):
        main([str(run), *map(str, pictures), "--out", str(pictures[0].parent)])
    assert "is the folder of wide.png: what is written would count as pictures" in capsys.readouterr().err
    assert sorted(path.name for path in pictures[0].parent.iterdir()) == before


def test_the_crop_of_training_is_that_of_the_masks(run, pictures, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    image_processor(16, 0.5).save_pretrained(copy)
    assert Segmenter(load_run(copy), Options(device="cpu"))(pictures[0])[0].box == (20, 10, 40, 30)
    assert Segmenter(load_run(copy), Options(device="cpu"), centre_crop=1.0)(pictures[0])[0].box == (10, 0, 50, 40)


def test_a_mask_of_the_models_own_size_is_its_segments(run, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "own.png")
    part, found = Segmenter(load_run(run), Options(device="cpu"))(tmp_path / "own.png")
    assert np.array_equal(part.pixels, pixels)
    assert np.array_equal(full_mask(part, found.masks[0]), found.segments[0])


def test_a_picture_gives_the_same_whatever_its_name_and_company(run, pictures, tmp_path):
    segment = Segmenter(load_run(run), Options(device="cpu"))
    alone = segment(pictures[0])[1]
    copied = tmp_path / "another name.png"
    copied.write_bytes(pictures[0].read_bytes())
    segment(pictures[1])
    again = segment(copied)[1]
    assert np.array_equal(alone.slots, again.slots) and np.array_equal(alone.masks, again.masks)


@pytest.mark.parametrize("size", [(24, 24), (320, 240), (50, 30)])
def test_the_square_is_prepared_as_training_pictures_are(tmp_path, size):
    folder = tmp_path / "data"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(folder / name)
    fields = ClevrtexData(
        path=str(folder), image_size=16, missing_masks="allow", val_fraction=1, cache_dir=str(tmp_path / "cache")
    )
    cached = pixels_of(load_clevrtex(fields, need=())["val"][0])[0]
    assert np.array_equal(read_square(folder / "a.png", 16).pixels, cached)


def test_another_number_of_slots_where_they_are_sampled(run, pictures, tmp_path, capsys):
    call = [str(run), str(pictures[0]), "--out", str(tmp_path / "out"), "--device", "cpu", "--num-slots", "7"]
    assert main(call) == 0
    with np.load(tmp_path / "out" / "wide_slots.npz") as stored:
        assert stored["slots"].shape == (7, 16)
    learned = make_run(tmp_path / "learned", tmp_path, steps=1, slot_init="learned", data={"num_train": 20})
    assert main([str(learned), *call[1:]]) == 1
    assert "learned its 4 slots" in capsys.readouterr().err


def test_a_bad_picture_is_named_and_the_others_are_done(run, pictures, tmp_path, capsys):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    out = tmp_path / "out"
    assert main([str(run), str(bad), str(pictures[2]), "--out", str(out), "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert "bad.png: no usable picture" in error and error.count("\n") == 1
    assert (out / "small_slots.png").is_file() and not (out / "bad_slots.png").exists()


def test_weights_that_are_not_those_of_the_manifest_are_refused(run, pictures, tmp_path, capsys, monkeypatch):
    copy, checked = shutil.copytree(run, tmp_path / "copy"), []
    monkeypatch.setattr(evaluation.loading, "verify", lambda folder: (checked.append(folder), verify(folder)))
    write_manifest(copy, [copy / "model.safetensors", copy / "config.json"])
    call = [str(copy), str(pictures[2]), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(call) == main(call) == 0
    assert len(checked) == 1  # nothing has changed since
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-8] ^= 1  # the last bit of a number
    (copy / "model.safetensors").write_bytes(weights)
    for _ in range(2):
        assert main(call) == 1
        assert "model.safetensors is damaged (its sha256 differs)" in capsys.readouterr().err


def test_a_crop_of_the_square(tmp_path, run):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_square(tmp_path / "a.png", 16, 0.5).box == (20, 10, 40, 30)
    assert read_square(tmp_path / "a.png", 16).box == (10, 0, 50, 40)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num-slots", "0"], "--num-slots must be from 1"),
        (["--centre-crop", "1.5"], "--centre-crop must be above 0"),
        (["elsewhere/wide.jpg"], "2 pictures are called wide"),
    ],
)
def test_options_are_checked(run, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit):
        main([str(run), "wide.png", *more, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err


def test_a_run_of_another_family_is_refused(run, tmp_path):
    loaded = load_run(run)
    loaded.recipe["model_family"] = "resnet"
    with pytest.raises(RunError, match="one of slotattn"):
        Segmenter(loaded, Options(device="cpu"))
    assert main([str(tmp_path), "wide.png", "--out", str(tmp_path)]) == 1
