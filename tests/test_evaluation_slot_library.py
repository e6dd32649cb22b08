"""The slot library: clusters, drawing, saving."""

import numpy as np
import pytest

from evaluation.runs import RunError
from evaluation.slot_library import FILE_NAME, SlotLibrary


def blobs(images=40, seed=0):
    """Slots [images, 3, 2] round three far centres, in a shuffled order in each picture; and the blob of each."""
    rng = np.random.default_rng(seed)
    blob = np.stack([rng.permutation(3) for _ in range(images)])
    centres = np.array([[0, 0], [50, 0], [0, 50]])
    return (centres[blob] + rng.normal(size=(images, 3, 2))).astype(np.float32), blob


def test_clusters_are_the_blobs_and_every_picture_has_one_of_each():
    slots, blob = blobs()
    library = SlotLibrary.build(np.arange(40), slots, 3)
    pairs = set(zip(library.clusters.ravel().tolist(), blob.ravel().tolist(), strict=True))
    assert len(pairs) == 3
    names = dict(pairs)
    drawn = library.draw(30)
    assert drawn.shape == (30, 3, 2)
    found = np.abs(drawn[:, :, None] - np.array([[0, 0], [50, 0], [0, 50]])).sum(-1).argmin(-1)
    assert np.array_equal(found, np.tile([names[c] for c in range(3)], (30, 1)))
    for cluster in range(3):
        members = slots[library.clusters == cluster]
        np.testing.assert_allclose(library.centres[cluster], members.mean(axis=0), rtol=1e-5, atol=1e-5)


def test_drawing_is_a_function_of_the_number_and_even():
    slots, _ = blobs()
    library = SlotLibrary.build(np.arange(40), slots, 3)
    whole = library.draw(10, seed=4)
    assert np.array_equal(whole[6:], library.draw(4, seed=4, start=6))
    assert not np.array_equal(whole, library.draw(10, seed=5))
    values = library.draw(4000)[:, 0, 0]
    _, counts = np.unique(values, return_counts=True)
    assert len(counts) == 40 and counts.min() > 60 and counts.max() < 145  # 100 each, standard deviation 10


def test_the_nearest_members_come_first_and_the_largest_cluster_is_the_first():
    slots = np.array([[[0.0], [0.2]], [[0.5], [9.0]], [[0.1], [9.1]]])
    library = SlotLibrary.build(np.array([7, 8, 9]), slots, 2)
    assert library.clusters.tolist() == [[0, 0], [0, 1], [0, 1]]
    pictures, places = library.members(0)
    assert (pictures[0], places[0]) == (0, 1)  # 0.2, the mean
    assert np.all(np.diff(np.abs(slots[pictures, places, 0] - 0.2)) >= 0)


@pytest.mark.parametrize("slots", [np.zeros((5, 4, 3)), np.zeros((1, 1, 3))])
def test_fewer_different_slots_than_clusters_make_fewer_clusters(slots, recwarn):
    library = SlotLibrary.build(np.arange(len(slots)), slots, 4)
    assert (library.num_clusters, library.requested) == (1, 4)
    assert library.draw(2).shape == (2, 1, 3)
    assert not [warning for warning in recwarn if "distinct clusters" in str(warning.message)]


def test_no_cluster_is_empty():
    values = np.repeat([0.0, 1.0, 5.0], [20, 1, 1])
    library = SlotLibrary.build(np.arange(22), values[:, None, None], 5)
    assert sorted(np.bincount(library.clusters.ravel()).tolist()) == [1, 1, 20]
    assert set(library.draw(1)[0, :, 0].tolist()) == {0.0, 1.0, 5.0}


def test_it_is_read_back_as_it_was_written(tmp_path):
    slots, _ = blobs()
    library = SlotLibrary.build(np.arange(40), slots, 3, digest="abc")
    assert library.save(tmp_path) == tmp_path / FILE_NAME
    again = SlotLibrary.load(tmp_path)
    assert (again.digest, again.requested) == ("abc", 3)
    assert np.array_equal(again.draw(5, seed=1), library.draw(5, seed=1))
    assert np.array_equal(again.clusters, library.clusters) and np.array_equal(again.ids, library.ids)


def test_clustering_is_reproducible():
    slots, _ = blobs()
    one, two = (SlotLibrary.build(np.arange(40), slots, 3, seed=2) for _ in range(2))
    assert np.array_equal(one.clusters, two.clusters)


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(RunError, match="there is no slot library"):
        SlotLibrary.load(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"not an archive")
    with pytest.raises(RunError, match="damaged"):
        SlotLibrary.load(tmp_path)
    SlotLibrary.build(np.arange(9), np.random.default_rng(0).normal(size=(9, 3, 4)), 2).save(tmp_path)
    whole = (tmp_path / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(whole[: len(whole) // 2])  # an archive that breaks off
    with pytest.raises(RunError, match="damaged"):
        SlotLibrary.load(tmp_path)
    with pytest.raises(ValueError, match="not finite"):
        SlotLibrary.build(np.arange(2), np.full((2, 3, 4), np.nan), 2)
    with pytest.raises(ValueError, match=r"must be \[N, K, D\]"):
        SlotLibrary.build(np.arange(2), np.zeros((3, 3, 4)), 2)
    with pytest.raises(ValueError, match="num_clusters"):
        SlotLibrary.build(np.arange(2), np.zeros((2, 3, 4)), 0)
