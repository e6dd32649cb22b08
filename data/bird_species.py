"""The looks of the 25 species that `bird_pictures.py` draws, loosely after the real ones.

Lengths are in units of the body's length. Colours are hex RGB. `marks` are names of `bird_pictures.MARKS`, each with
a colour.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Species:
    """One species' proportions, colours and markings; the defaults are a plain songbird."""

    name: str
    body: str
    belly: str
    head: str
    wing: str
    tail: str
    beak: str = "2b2a28"
    legs: str = "5a4a42"
    fat: float = 0.29  # half height of the body
    head_size: float = 0.17  # radius
    neck: float = 0.0
    beak_length: float = 0.20
    beak_depth: float = 0.08
    beak_curve: float = 0.0  # downward
    tail_length: float = 0.45
    tail_width: float = 0.16
    tail_kind: str = "round"  # round, fork, wire, fan
    tail_lift: float = 0.0  # radians upwards
    leg_length: float = 0.22
    crest: str = ""  # spike, fan, crown
    marks: tuple[tuple[str, str], ...] = ()


TABLE = (
    Species("Asian-Green-Bee-Eater", "58a83a", "7cc25a", "c08a34", "3f8f3a", "4c9a3c", fat=0.23, beak_length=0.36,
            beak_depth=0.06, beak_curve=0.10, tail_length=0.75, tail_width=0.11, tail_kind="wire", leg_length=0.12,
            marks=(("mask", "1c1c1c"), ("bib", "55b9c4"), ("collar", "1c1c1c"))),
    Species("Brown-Headed-Barbet", "4e9a2f", "7fb35a", "8a6a4a", "3f8a2a", "3f8a2a", beak="df8a4c", legs="c0a060",
            fat=0.33, head_size=0.22, beak_length=0.22, beak_depth=0.15, tail_length=0.30,
            marks=(("streaks", "d8c8a0"), ("eyering", "e9a23a"))),
    Species("Cattle-Egret", "f4f2ea", "fbfaf5", "f0dcb4", "eceadf", "efede4", beak="e8b23a", legs="4c4a3c", fat=0.24,
            head_size=0.13, neck=0.42, beak_length=0.28, tail_length=0.18, leg_length=0.62),
    Species("Common-Kingfisher", "1f7fc4", "e07b2a", "1a6fb4", "1565a8", "1a6fb4", legs="d9482f", fat=0.28,
            head_size=0.21, beak_length=0.44, beak_depth=0.10, tail_length=0.16, leg_length=0.10,
            marks=(("cheek", "e88a3a"), ("bib", "f2eee0"), ("spots", "7fd0f0"))),
    Species("Common-Myna", "6b4a35", "8a6a50", "241f1f", "4f3626", "2c2422", beak="edbf2f", legs="edbf2f",
            head_size=0.18, tail_length=0.34, leg_length=0.28, marks=(("eyering", "f0c531"), ("wingpatch", "f2f0ea"))),
    Species("Common-Rosefinch", "b0504e", "dba8a0", "c42f3a", "7a5a50", "6a4c44", beak="8c7a70", head_size=0.19,
            beak_length=0.13, beak_depth=0.13, tail_kind="fork", tail_length=0.40, marks=(("wingbar", "dba8a0"),)),
    Species("Common-Tailorbird", "7f9a3f", "e6e2d0", "86924a", "6f8a3a", "75803a", beak="9a7a64", legs="c98a6a",
            fat=0.26, beak_length=0.24, beak_depth=0.05, tail_length=0.55, tail_width=0.10, tail_lift=0.9,
            leg_length=0.30, marks=(("cap", "b0602c"),)),
    Species("Coppersmith-Barbet", "4f9a35", "cfdca2", "e2cd46", "3f8530", "3a7a3a", legs="c9404a", fat=0.34,
            head_size=0.22, beak_length=0.16, beak_depth=0.14, tail_length=0.24,
            marks=(("cap", "c42f2a"), ("mask", "24323a"), ("collar", "c42f2a"), ("spots", "4f8a40"))),
    Species("Forest-Wagtail", "7f7752", "f1ebd2", "7a7350", "3a392e", "4a452f", fat=0.23, head_size=0.15,
            tail_length=0.70, tail_width=0.11, legs="d9a89a", leg_length=0.26,
            marks=(("brow", "efe6c4"), ("band", "2a2824"), ("collar", "2a2824"), ("wingbar", "f0e6c0"))),
    Species("Gray-Wagtail", "7f8a94", "e9d83c", "7f8a94", "3a3f44", "2e3236", fat=0.22, head_size=0.15,
            tail_length=0.85, tail_width=0.10, legs="c09a8a", leg_length=0.26,
            marks=(("brow", "f4f4f0"), ("bib", "23262a"))),
    Species("Hoopoe", "d9a070", "e8c09a", "d9985f", "222222", "1f1f1f", fat=0.25, head_size=0.15, beak_length=0.46,
            beak_depth=0.05, beak_curve=0.12, tail_length=0.42, crest="fan", leg_length=0.16,
            marks=(("wingbar", "f4f1e8"), ("tip", "f4f1e8"))),
    Species("House-Crow", "26262c", "3a3a40", "1d1d22", "202028", "1d1d24", legs="222222", head_size=0.19,
            beak_length=0.28, beak_depth=0.12, tail_length=0.48, tail_width=0.20, leg_length=0.26,
            marks=(("neckpatch", "8f8d8a"),)),
    Species("Indian-Grey-Hornbill", "9c9c9e", "dedbd6", "a8a6a4", "84848a", "77777c", beak="d9b860", fat=0.27,
            head_size=0.19, beak_length=0.44, beak_depth=0.17, beak_curve=0.16, tail_length=0.90, tail_width=0.15,
            leg_length=0.16, marks=(("casque", "4a4038"), ("brow", "e8e6e0"), ("tip", "f4f4f0"))),
    Species("Indian-Peacock", "1a4fb0", "123f8a", "1f5fc9", "b39c72", "2f8a5a", beak="9a9484", fat=0.26,
            head_size=0.11, neck=0.42, beak_length=0.14, tail_length=1.25, tail_width=0.62, tail_kind="fan",
            leg_length=0.36, crest="crown", marks=(("cheek", "f0f0f0"), ("eyespots", "e0b23a"), ("wingbar", "4a3a2a"))),
    Species("Indian-Pitta", "3f8a4a", "e3b06a", "d99a50", "2f7f8a", "2a5f6a", legs="d9a08a", fat=0.33, head_size=0.20,
            beak_length=0.20, beak_depth=0.09, tail_length=0.12, leg_length=0.36,
            marks=(("mask", "1d1b1a"), ("brow", "f4efe4"), ("vent", "d0302f"), ("wingpatch", "62c4dc"))),
    Species("Indian-Roller", "b48c7c", "7cc0dc", "4fa0c4", "1f5fc4", "2a62b8", legs="c09a50", fat=0.29, head_size=0.21,
            beak_length=0.26, beak_depth=0.10, tail_length=0.42, leg_length=0.16,
            marks=(("bib", "b07a72"), ("wingpatch", "74d0ec"), ("tip", "184a9a"))),
    Species("Jungle-Babbler", "a08f7a", "bdae96", "a3937f", "8a7a66", "82725e", beak="e0c878", legs="d8b878", fat=0.34,
            head_size=0.18, beak_length=0.20, tail_length=0.60, tail_width=0.22, leg_length=0.30,
            marks=(("eyering", "f2efe2"), ("streaks", "c9bba4"))),
    Species("Northern-Lapwing", "2f5a4a", "f4f3ee", "f0efe8", "2a4f44", "23302c", legs="a0604a", fat=0.27,
            head_size=0.15, beak_length=0.14, beak_depth=0.05, tail_length=0.26, leg_length=0.40, crest="spike",
            marks=(("cap", "1c1c1e"), ("band", "1c1c1e"), ("vent", "c8803c"), ("wingpatch", "6a3f7a"))),
    Species("Red-Wattled-Lapwing", "a8845f", "f6f4ee", "1d1c1c", "98744f", "efede6", beak="cf3030", legs="e6c832",
            fat=0.26, head_size=0.15, neck=0.12, beak_length=0.22, tail_length=0.28, leg_length=0.58,
            marks=(("wattle", "d8322f"), ("cheek", "f6f4ee"), ("bib", "1d1c1c"), ("tip", "1d1c1c"))),
    Species("Ruddy-Shelduck", "d0782f", "cf8038", "ecca98", "f0ece2", "1e1d1c", legs="262422", fat=0.31, head_size=0.17,
            neck=0.14, beak_length=0.22, beak_depth=0.10, tail_length=0.20, tail_width=0.20, leg_length=0.13,
            marks=(("primaries", "1f2a24"), ("collar", "2a2420"))),
    Species("Rufous-Treepie", "b8682f", "cc8c52", "4a4a4c", "e0ded8", "b4b6b8", fat=0.25, head_size=0.17,
            beak_length=0.20, beak_depth=0.11, beak_curve=0.04, tail_length=1.05, tail_width=0.15, leg_length=0.18,
            marks=(("primaries", "1c1c1c"), ("tip", "1c1c1c"))),
    Species("Sarus-Crane", "b4b8bc", "c6c9cc", "c42f2f", "9ea3a9", "a9adb2", beak="8f9684", legs="d08a80", fat=0.24,
            head_size=0.11, neck=0.78, beak_length=0.34, tail_length=0.22, tail_width=0.24, leg_length=0.90,
            marks=(("cap", "c9cfc4"), ("primaries", "3a3d42"))),
    Species("White-Breasted-Kingfisher", "1f8fc4", "6a3522", "6a3522", "1b86b8", "1a78b0", beak="d0382c", legs="d0382c",
            fat=0.28, head_size=0.22, beak_length=0.46, beak_depth=0.13, tail_length=0.36, leg_length=0.10,
            marks=(("bib", "f6f4ee"), ("primaries", "232426"))),
    Species("White-Breasted-Waterhen", "3f464c", "f4f4f0", "f2f2ee", "363d42", "30363a", beak="c4c04a", legs="cfb84a",
            fat=0.28, head_size=0.14, neck=0.10, beak_length=0.20, tail_length=0.20, tail_lift=0.7, leg_length=0.46,
            marks=(("cap", "3f464c"), ("vent", "a8502a"), ("wattle", "c8402f"))),
    Species("White-Wagtail", "8a9096", "f4f4f2", "f6f6f4", "4a4e52", "1f2022", fat=0.23, head_size=0.16,
            tail_length=0.78, tail_width=0.10, leg_length=0.26,
            marks=(("cap", "1a1a1c"), ("bib", "1a1a1c"), ("wingbar", "f4f4f2"))),
)  # fmt: skip
SPECIES = [species.name for species in TABLE]
