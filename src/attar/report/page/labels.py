"""Soft labels, view by view: the crop in the image, the view that students see, and the most probable classes."""

from typing import Any

import torch
from torch import Tensor

from attar.core.errors import AttarError
from attar.ops.pixels import to_bytes
from attar.ops.replay import Records
from attar.report.page import sheets
from attar.report.page.block import Block, of_json
from attar.stages.distilled import Distilled

SHOWN_IMAGES, SHOWN_VIEWS, SHOWN_CLASSES = 20, 8, 5
ONLINE_IMAGES, ONLINE_VIEWS = 10, 4
"""Of labels that the teachers make online, because each view must go through the teachers."""
MOST_EPOCH_BYTES = 3 * 10**8
"""An epoch of labels that takes more is not read for a page."""


def blocks(name: str, distilled: Distilled, titles: list[str]) -> tuple[list[Block], str]:
    """Return the blocks of some images' labels, and why there are none; one of the two is empty.

    ``titles`` are the classes' names as the page shows them.
    """
    stored = distilled.stored
    if stored is not None and stored.header.record_bytes * len(distilled) > MOST_EPOCH_BYTES:
        return [], "An epoch of the stored labels is too large to be read for this page."
    online = distilled.info.labels.mode == "online"
    images, views = (ONLINE_IMAGES, ONLINE_VIEWS) if online else (SHOWN_IMAGES, SHOWN_VIEWS)
    index = _spread(distilled.labels, images)
    epochs = range(min(views, distilled.info.labels.epochs if stored is None else stored.header.num_epochs))
    try:
        with torch.inference_mode():
            found = [_labelled(distilled, epoch, index) for epoch in epochs]
    except AttarError as error:
        return [], f"The labels cannot be shown: {error}"
    own = distilled.images[index]
    cells = torch.stack([own, *(to_bytes(shown) for shown, _, _ in found)], dim=1)
    side = min(distilled.info.size, 224)
    described = [
        {
            "class": int(distilled.labels[image]),
            "slot": int(distilled.slots[image]),
            "views": [_view(distilled, records, logits, place) for _, records, logits in found],
        }
        for place, image in enumerate(index.tolist())
    ]
    used = sorted(
        {one["class"] for one in described}
        | {label for one in described for view in one["views"] for label in _classes(view)}
    )
    content = {
        "columns": 1 + len(found),
        "side": side,
        "titles": {label: titles[label] for label in used},
        "images": described,
    }
    return [of_json(name, content), sheets.block(f"{name}-0", cells.flatten(0, 1), 1 + len(found), side)], ""


def _labelled(distilled: Distilled, epoch: int, index: Tensor) -> tuple[Tensor, Records, Tensor]:
    """Return these images as an epoch shows them, how each view was made, and the teachers' logits."""
    opened = distilled.epoch(epoch)
    shown, targets = opened.take(index)
    assert targets.logits is not None  # asked for
    return shown, opened.records.take(index), targets.logits


def _spread(labels: Tensor, count: int) -> Tensor:
    """Return the first image of ``count`` classes that are spread evenly, or of all classes."""
    order = labels.argsort(stable=True)
    firsts = order[torch.cat([torch.ones(1, dtype=torch.bool), labels[order].diff() != 0])]
    if len(firsts) <= count:
        return firsts
    return firsts[torch.linspace(0, len(firsts) - 1, count).round().long()]


def _view(distilled: Distilled, records: Records, logits: Tensor, place: int) -> dict[str, Any]:
    shares = logits[place].float().softmax(0)
    top = shares.topk(min(SHOWN_CLASSES, len(shares)))
    size, look = distilled.info.size, records.look
    part = 0 if look.part is None else int(look.part.number[place])
    plain = part == 0 and look.patches is None
    return {
        "box": [round(value / size, 4) for value in look.view.box[place].tolist()] if plain else None,
        "how": _described(records, place, part),
        "flip": bool(look.view.flip[place]),
        "mix": _mixed(distilled, records, place),
        "top": [[int(label), round(float(share), 4)] for share, label in zip(*top, strict=True)],
    }


def _described(records: Records, place: int, part: int) -> list[str]:
    """Return in words what was done to the image besides cropping."""
    look = records.look
    said = [f"part {part} of the stored image, enlarged"] if part else []
    said += ["shuffled patches"] if look.patches is not None else []
    said += ["mirrored"] if bool(look.view.flip[place]) else []
    said += ["RandAugment"] if look.randaugment is not None else []
    return said + (["Siamese augmentation"] if look.siamese is not None else [])


def _mixed(distilled: Distilled, records: Records, place: int) -> dict[str, Any] | None:
    """Return the class mixed in and its share; None if nothing is."""
    if records.mix is None or float(records.mix.weight[place]) >= 1:
        return None
    partner = int(records.mix.partner[place])
    return {
        "class": int(distilled.labels[partner]),
        "share": round(1 - float(records.mix.weight[place]), 3),
        "kind": "mixup" if records.mix.box is None else "CutMix",
    }


def _classes(view: dict[str, Any]) -> list[int]:
    mixed = [] if view["mix"] is None else [view["mix"]["class"]]
    return [label for label, _ in view["top"]] + mixed
