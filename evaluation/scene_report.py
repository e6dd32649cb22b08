"""Parts of a report on a model that splits scenes into slots: tables, figures, galleries, sheets of pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from training.scene_pictures import sheet

from . import figures, scene_figures, sections
from .composition import speciality
from .report import (
    NO_VALUE,
    Cell,
    Figures,
    Gallery,
    Picture,
    Section,
    Table,
    Text,
    data_uri,
    interval,
    percent,
)
from .runs import Run, write_atomically, write_json
from .scene_baselines import GRID, MEAN_COLOUR
from .scene_figures import size_label
from .scene_gallery import SceneRow, rows_sheet
from .scene_observations import close_split, rank_note
from .scene_results import AUTOENCODER, SHORT, SPLIT_NAMES, Wording, measured, results_table
from .scene_scores import FOREGROUND

PANELS: figures.Panels = (
    ("loss", "Loss"),
    ("adjusted_rand_index", "ARI, all pixels"),
    (FOREGROUND, "ARI, foreground"),
)
SHEETS = ("scenes.png", "clusters.png", "composed.png")  # pictures, published where the scenes were drawn here
FIRST_SHEET = "scenes.png"
PUBLISHED_FIGURES = ("curves.png", "foreground_ari.png", "by_objects.png", "by_size.png", *SHEETS)
KINDS = {
    "worst": ("Worst", "bad", "The lowest foreground ARI"),
    "typical": ("Typical", "", "Evenly spaced by rank between the worst and the best"),
    "best": ("Best", "good", "The highest foreground ARI"),
}


COLUMNS_OF_SHEET = "image, true masks, predicted masks in their colours, reconstruction, then each slot by itself"


def number_figures(run: Run) -> dict[str, Figure]:
    """The figures without a picture in them, by file name. (The card draws the curves.)"""
    details = (run.evaluation.get("splits") or {}).get(close_split(run) or "", {})
    made = {}
    if details.get("by_objects"):
        made["foreground_ari"] = scene_figures.histogram(details["histogram"])
        made["by_objects"] = scene_figures.by_objects(details["by_objects"])
    if details.get("by_size"):
        made["by_size"] = scene_figures.by_size(details["by_size"])
    return made


def data_name(run: Run) -> str:
    """The data set by its last path component, or what the renderer draws."""
    difficulty = (run.recipe.get("data") or {}).get("difficulty", "textured")
    return sections.data_name(run, f"generated scenes ({difficulty})")


def common_sections(
    run: Run, pictures: dict[str, Any], wording: Wording = AUTOENCODER, own: Sequence[Section] = ()
) -> list[Section]:
    """Everything but the headline; `pictures` as `scene_evaluation.evaluate_scenes` gives them; `own` are sections that
    only this family has."""
    curve = figures.Curve(run.folder.name, figures.BLUE, run.history)
    return sections.filled(
        [
            Section("Results", [results_table(run, wording)]),
            Section("Observations", [Text(run.evaluation.get("observations") or [], listed=True)]),
            Section("Learning curves", sections.learning_curves([curve], PANELS)),
            Section("Objects", _objects(run, number_figures(run))),
            Section("Scenes", _scenes(pictures, wording)),
            Section("Slot clusters", _clusters(run, pictures)),
            Section("Composed pictures", _composed(run, pictures)),
            *own,
            Section("Other data", _other_data(run, pictures.get("other") or {})),
            Section("Set-up", sections.setup(run)),
        ]
    )


def _objects(run: Run, made: dict[str, Figure]) -> list[Any]:
    if not made:
        return []
    split = close_split(run)
    names = {
        "foreground_ari": "Scenes by foreground ARI",
        "by_objects": "Foreground ARI by number of objects",
        "by_size": "Best IoU of an object by its size",
    }
    shown = [key for key in names if key in made]
    caption = f"The {SPLIT_NAMES[split]} scenes. Bars are 95 % intervals; grey: how many scenes or objects."
    blocks: list[Any] = [Figures.of([made[key] for key in shown], [names[key] for key in shown], caption=caption)]
    rows = [
        [
            size_label(row),
            f"{row['objects']:,}",
            Cell(percent(row["overlap"]), interval(row["overlap_interval"])),
            percent(row["found"]),
        ]
        for row in run.evaluation["splits"][split]["by_size"]
    ]
    columns = ["Share of the picture", "Objects", "Best IoU", "IoU of 0.5 or more"]
    return [*blocks, Table(columns, rows, "Objects by their visible size", folded=True)]


def picture(image: np.ndarray, lines: list[str], tone: str = "", flat: bool = False) -> Picture:
    """One picture of a strip; `flat` for label maps, which must not be smoothed."""
    return Picture([data_uri(image, 128, lossless=flat)], lines, tone, pixelated=max(image.shape) <= 64)


def _strip(row: SceneRow, tone: str = "") -> Gallery:
    """A scene: image, masks, reconstruction, and every slot by itself."""
    facts = [f"Scene {row.id}"]
    if row.score is not None:
        facts.append(f"foreground ARI {row.score:.2f}")
    if row.objects is not None:
        facts.append(f"{row.objects} object{'' if row.objects == 1 else 's'}")
    pictures = [picture(row.image, ["image"])]
    if row.true is not None:
        pictures.append(picture(row.true, ["true masks"], flat=True))
    pictures.append(picture(row.predicted, ["predicted masks"], tone, flat=True))
    if row.given is not None:
        pictures.append(picture(row.given, ["masks that came", "with the data"], flat=True))
    pictures.append(picture(row.reconstruction, ["reconstruction"]))
    for slot in row.slots:
        lines = [f"slot {slot.slot + 1}", percent(slot.share)]
        if slot.segment is not None:
            what = "background" if slot.segment == 0 else f"object {slot.segment}"
            lines += [what, f"IoU {slot.overlap:.2f}"]
        pictures.append(picture(slot.picture, lines))
    return Gallery(", ".join(facts), [("", pictures)], small=True)


def _scenes(pictures: dict[str, Any], wording: Wording) -> list[Any]:
    blocks: list[Any] = []
    for kind, rows in (pictures.get("rows") or {}).items():
        if not rows:
            continue
        name, tone, text = KINDS[kind]
        scored = any(row.score is not None for row in rows)
        where = SPLIT_NAMES[pictures["split"]]
        text = f"{text}, {where} scenes" if scored else f"Evenly spaced {where} scenes"
        if not blocks:
            text += (
                ". A predicted mask has the colour of the true one that it stands for. Each slot by itself is "
                f"{wording.alone}, faded where other slots have the pixel; below it the share of the pixels that it "
                "wins, and what it stands for"
            )
        blocks.append(Text([f"{name}. {text}."], quiet=True))
        blocks += [_strip(row, tone) for row in rows]
    return blocks


def _clusters(run: Run, pictures: dict[str, Any]) -> list[Any]:
    strips = pictures.get("clusters")
    if not strips:
        return []
    made = run.evaluation["composition"]
    rows = [
        [
            f"{i + 1}: {speciality(facts)}",
            f"{facts['slots']:,}",
            percent(facts["share"]),
            percent(facts.get("idle")),
            percent(facts.get("area")),
            f"{facts['x']:.2f}, {facts['y']:.2f}" if "x" in facts else NO_VALUE,
            f"{facts['spread']:.2f}" if "spread" in facts else NO_VALUE,
            percent(facts.get("background")),
        ]
        for i, facts in enumerate(made["facts"])
    ]
    columns = ["Cluster", "Slots", "Share", "Idle", "Area", "Centre x, y", "Spread", "On background"]
    caption = (
        f"K-means over {made['slots']:,} slots of {made['library_images']:,} training pictures. Idle: wins under half "
        "a per cent of its picture; of the others the mean area, the centre of the masks (0 to 1, y down) with the "
        "root mean square distance from there, and how many lie mostly on background."
    )
    strips = [
        Gallery(
            f"Cluster {strip.cluster + 1}: {speciality(strip.facts)}",
            [("", [picture(slot.picture, [percent(slot.share)]) for slot in strip.pictures])],
            small=True,
        )
        for strip in strips
    ]
    note = Text(
        ["The slots nearest to the centre of each cluster, and the share of their picture that they win."], True
    )
    return [Table(columns, rows, caption), note, *strips]


def _composed(run: Run, pictures: dict[str, Any]) -> list[Any]:
    shown = pictures.get("composed")
    if shown is None:
        return []
    made = run.evaluation["composition"]
    blocks: list[Any] = []
    if "value" in made:
        names = {
            "value": "composed of one slot of each cluster",
            "reconstruction": "reconstructions of the same pictures",
            "train": "training pictures",
        }
        rows = [[name, f"{made[key]:.1f}"] for key, name in names.items() if key in made]
        text = (
            f"Frechet distance to {made['images']:,} {SPLIT_NAMES[made['split']]} pictures, of as many pictures each; "
            "smaller is more alike. Distances of other features, or of other numbers of pictures, cannot be compared."
        )
        if not made["full_rank"]:
            text += f" A large part of it is noise: {rank_note(made)}."
        if made["not_at_hand"]:
            text += f" The weights of {', '.join(made['not_at_hand'])} are not at hand."
        blocks.append(Table(["Pictures", made["metric"]], rows, text))
    else:
        blocks.append(Text([f"No Frechet distance: {made['unavailable']}."], quiet=True))
    strip = [picture(composed, [str(number)]) for number, composed in enumerate(shown, 1)]
    note = f"One slot of each of the {made['clusters']} clusters, drawn with seed {made['seed']} and decoded together."
    return [*blocks, Gallery("", [("", strip)], note, small=True)]


def _other_data(run: Run, pictures: dict[str, list[SceneRow]]) -> list[Any]:
    blocks: list[Any] = []
    for name, entry in (run.evaluation.get("other_data") or {}).items():
        rows = [measured(f"this model, {entry['slots']} slots", entry["numbers"])]
        if "given" in entry:
            rows.append(
                measured(
                    f"masks that came with the data, at {entry['image_size']}x{entry['image_size']}", entry["given"]
                )
            )
        if f"{MEAN_COLOUR}reconstruction_mse" in entry["numbers"]:
            rows.append(measured("no learning, as above", entry["numbers"], (GRID, MEAN_COLOUR)))
        size = entry["image_size"]
        caption = f"{name}: {entry['numbers']['samples']:,} scenes at {size}x{size}, without any training on them."
        if "more_objects_than_slots" in entry:
            caption += f" In {entry['more_objects_than_slots']:,} of them there are more segments than slots."
        blocks.append(Table(["Masks", *SHORT.values(), "MSE"], rows, caption))
        blocks += [_strip(row) for row in pictures.get(name, [])]
    return blocks


def save_galleries(run: Run, pictures: dict[str, Any], own: dict[str, np.ndarray | None] | None = None) -> None:
    """Write the sheets of scenes, clusters and composed pictures, and a family's `own` by file name, to `galleries/` of
    the run; where the scenes were drawn here, and so may be shown anywhere, also to `figures/`. Other data are in
    report.html alone.
    """
    made = {name: drawn for name, drawn in (own or {}).items() if drawn is not None}
    if pictures.get("sheet"):
        made["scenes.png"] = rows_sheet(pictures["sheet"])
    if pictures.get("clusters"):
        longest = max(len(strip.pictures) for strip in pictures["clusters"])
        rows = [[slot.picture for slot in strip.pictures] for strip in pictures["clusters"]]
        blank = np.full_like(rows[0][0], 255)
        made["clusters.png"] = sheet([np.stack([(row + [blank] * longest)[k] for row in rows]) for k in range(longest)])
    if pictures.get("composed") is not None:
        made["composed.png"] = block(pictures["composed"], columns=8)
    for name in (*SHEETS, *(own or {})):
        for folder, allowed in (("galleries", True), ("figures", run.is_generated)):
            path = run.folder / folder / name
            if name in made and allowed:
                buffer = io.BytesIO()
                Image.fromarray(made[name]).save(buffer, "PNG", optimize=True)
                write_atomically(path, buffer.getvalue())
            else:
                path.unlink(missing_ok=True)
    rows = [{"id": row.id, "foreground_score": row.score} for row in pictures.get("sheet") or []]
    index = {"split": pictures["split"], "columns": COLUMNS_OF_SHEET, "rows": rows}
    write_json(run.folder / "galleries" / "scenes.json", index)


def block(images: np.ndarray, columns: int) -> np.ndarray:
    """Pictures uint8 [N, S, S, 3] in rows of `columns`, the last row filled with white."""
    missing = -len(images) % columns if len(images) > columns else 0
    blank = np.full((missing, *images.shape[1:]), 255, dtype=np.uint8)
    filled = np.concatenate([images, blank])
    width = min(columns, len(filled))
    return sheet(list(filled.reshape(-1, width, *images.shape[1:]).swapaxes(0, 1)))
