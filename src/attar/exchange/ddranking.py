"""Export a finished run for scoring with DD-Ranking 0.2.0 (``pip install ddranking``; Li et al., 2025).

"The evaluator" is DD-Ranking.
"""

import dataclasses
import statistics
import textwrap
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from attar.core.errors import AttarError
from attar.exchange import ddranking_terms as terms
from attar.exchange.ddranking_terms import Dataset, DDNetwork, Setup
from attar.models import record
from attar.models import teacher as teachers
from attar.models.build import Stem
from attar.models.small import ConvNet
from attar.models.teacher import Selection
from attar.stages.dataset_info import DatasetInfo
from attar.stages.distilled import Distilled
from attar.stages.protocol import Protocol
from attar.stages.protocols import protocol_title
from attar.stages.rows import FULL
from attar.stages.run import Run
from attar.store import atomic
from attar.store import images as image_files

STAND_IN = DDNetwork("ResNet-18-BN", True)
"""Network to use if the evaluator does not have the run's network."""


@dataclasses.dataclass(frozen=True)
class _Evaluated:
    """The run's own evaluation."""

    setup: Setup
    student: str
    student_stem: Stem
    full_data_percent: float | None
    """Top-1 of that student trained on all real images, in percent."""


def export(run: Path, out: Path) -> list[str]:
    """Write images, configuration, teacher and ``score.py`` into ``out``; returns lines to print.

    Images are PNG files, ``images/CCCCC/NNNNN.png``, where C is the evaluator's class number. Raises AttarError when
    the run is not finished, the evaluator does not have its dataset, or ``out`` is not empty.
    """
    labels = Run(run).labels
    distilled = Distilled(run / "distilled")
    info = distilled.info
    if info.storage.factor > 1:
        raise AttarError(
            f"Each stored image of {run} holds {info.storage.num_parts} images, which DD-Ranking cannot decode; export "
            f"the set of another method."
        )
    dataset = terms.dataset_of(info)
    evaluated = _evaluated(run, info, labels.data.get("resize") or info.size)
    student = terms.student_of(evaluated.student, evaluated.student_stem, info.size)
    squeezed = described = teacher = None
    weights_sha256 = info.teachers[0].weights_sha256 if info.teachers else ""
    if weights_sha256:
        squeezed = _squeezed(run, weights_sha256)
        described = record.parse((squeezed / teachers.RECORD).read_bytes(), squeezed / teachers.RECORD)
        teacher = terms.network_of(described.architecture, described.stem, info.size)
    notes = terms.unexpressed(dataset, info, evaluated.setup)
    if len(info.teachers) > 1:
        notes.insert(
            0,
            f"A committee of {len(info.teachers)} teachers made the run's labels; the evaluator uses only one teacher, "
            f"the first.",
        )
    if student is None:
        notes.insert(0, f"The evaluator does not have the student {evaluated.student}; it trains {STAND_IN.name}.")
    if teacher is None:
        lacks = "The run made no soft labels"
        if described is not None:
            lacks = f"The evaluator does not have the teacher {described.architecture} ({described.stem} stem)"
        notes.insert(
            0,
            f"{lacks}, so teacher_models/ is empty and the images can be scored with hard labels only, unless you put "
            f"{STAND_IN.name} weights there.",
        )
    config = terms.settings(dataset, info, evaluated.setup, student or STAND_IN, teacher or STAND_IN)
    if evaluated.full_data_percent is not None:
        config["full_data_percent"] = evaluated.full_data_percent
    mode = "soft" if teacher is not None and evaluated.setup.protocol.loss != "hard" else "hard"
    with atomic.new_folder(out) as folder:
        _write_images(distilled, dataset, folder / "images")
        if teacher is not None and squeezed is not None:
            place = folder / config["teacher_dir"] / dataset.name / teacher.name
            _write_teacher(squeezed, dataset, place, weights_sha256)
        text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=120)
        (folder / "config.yaml").write_text(f"# {info.method} on {info.name}, for DD-Ranking 0.2.0\n{text}")
        (folder / "score.py").write_text(_SCORE)
        (folder / "README.txt").write_text(_readme(info, dataset, evaluated, config, mode, notes))
    return [
        f"{out}: {len(distilled)} images of {dataset.name}, configuration{'' if teacher is None else ', teacher'}",
        f"{out / 'README.txt'} lists the differences from the run's own evaluation",
        f"to score them, install ddranking and run: python {out / 'score.py'} {mode}",
    ]


def _squeezed(run: Path, weights_sha256: str) -> Path:
    """Return the folder of the teacher with these weights."""
    for teacher in Run(run).teachers:
        if teacher.weights_sha256 == weights_sha256:
            return teacher.folder
    raise AttarError(f"{run / 'squeeze'} does not hold the teacher that made the soft labels; relabel again.")


def _evaluated(run: Path, info: DatasetInfo, resize: int) -> _Evaluated:
    """Return the evaluation's protocol, student and top-1; if there is none, the labels' protocol and resnet18."""
    setup = Setup(info.protocol, info.labels.views, info.labels.mix, resize, num_seeds=5)
    if not Run(run).is_done("evaluate"):
        return _Evaluated(setup, "resnet18", "auto", None)
    asked = Run(run).asked
    protocol = Protocol.of(Protocol.upgraded(asked.protocol), str(asked.path))
    setup = dataclasses.replace(setup, protocol=protocol, num_seeds=asked.num_seeds)
    student, trained = asked.students[0], [score for score in Run(run).accuracies if not score.diverged]
    top1 = [100 * score.top1 for score in trained if (score.row, score.student) == (FULL, student)]
    full = round(statistics.fmean(top1), 2) if top1 else None
    return _Evaluated(setup, student, asked.student_stem, full)


def _write_images(distilled: Distilled, dataset: Dataset, folder: Path) -> None:
    number = {label: index for index, label in enumerate(dataset.order)}
    written = dict.fromkeys(dataset.order, 0)
    for index in range(len(dataset.order)):
        (folder / f"{index:05d}").mkdir(parents=True)
    for image, label in zip(distilled.images, distilled.labels.tolist(), strict=True):
        path = folder / f"{number[label]:05d}" / f"{written[label]:05d}.png"
        path.write_bytes(image_files.encode(image, "png", 0))
        written[label] += 1


def _write_teacher(squeezed: Path, dataset: Dataset, folder: Path, weights_sha256: str = "") -> None:
    """Write the weights for the evaluator's network, with one logit per class in the evaluator's order."""
    network = teachers.load(squeezed, weights_sha256=weights_sha256).module
    columns = torch.arange(len(dataset.order))
    if isinstance(network, Selection):
        network, columns = network.network, network.columns.cpu()
    last = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
    rows = columns[torch.tensor(dataset.order)]
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    for name in (f"{last}.weight", f"{last}.bias"):
        state[name] = state[name][rows].contiguous()
    folder.mkdir(parents=True)
    if isinstance(network, ConvNet):
        state = {_in_sequence(name): tensor for name, tensor in state.items()}
    torch.save(state, folder / "ckpt_best.pt")


def _in_sequence(name: str) -> str:
    """Return the evaluator's name of a ConvNet's weight; its blocks form one sequence of layers."""
    if not name.startswith("blocks."):
        return name.replace("fc.", "classifier.")
    _, block, layer, weight = name.split(".")
    return f"features.{4 * int(block) + int(layer)}.{weight}"


def _readme(
    info: DatasetInfo, dataset: Dataset, evaluated: _Evaluated, config: dict[str, Any], mode: str, notes: list[str]
) -> str:
    key = f"{dataset.name}-{config['model_name']}"
    full = f"Train a {key} and write its accuracy in percent into config.yaml as full_data_percent."
    if key in terms.FULL_DATA_PERCENT:
        full = f"{key} is one of them, with {terms.FULL_DATA_PERCENT[key]} %."
    elif evaluated.full_data_percent is not None:
        full = f"For {key} score.py uses the run's own {evaluated.full_data_percent:g} %."
    return _README.format(
        title=f"IPC {info.ipc}, {info.method} on {info.name}, as {dataset.name} for DD-Ranking 0.2.0",
        mode=mode,
        real=_CIFAR if dataset.name.startswith("CIFAR") else _FOLDERS,
        model=config["model_name"],
        protocol=protocol_title(evaluated.setup.protocol),
        full=full,
        notes="\n".join(_wrapped(note) for note in notes),
    )


def _wrapped(sentence: str) -> str:
    return textwrap.fill(sentence, 118, initial_indent="- ", subsequent_indent="  ")


_CIFAR = "the package downloads CIFAR into that folder."
_FOLDERS = """the folder needs train/ and val/
with one folder of images per class each (the published val/ of Tiny-ImageNet has none, and ImageNet's subsets need the
folders of all of ImageNet-1K)."""

_README = """\
{title}

How to run it
  pip install ddranking==0.2.0     needs numpy < 2, so use a separate environment
  python score.py {mode}           soft or hard: label-robust score; augmentation: augmentation-robust score
Put the real data into real/, or set real_data_path in config.yaml: {real}
config.yaml sets the network, {model}, and the training of attar's protocol {protocol}.

How DD-Ranking's evaluation differs from the run's own
{notes}
- It tunes the learning rate for random images, and with 'soft' also for hard labels, over five values on the test set.
  The distilled images use the run's learning rate.
- It reports the best test accuracy during a training, not that of the last epoch.
- Trainings on hard labels use no mixing.

Defects of the package, and what score.py does about them
- Scores exponentiate differences in percent and so leave [0, 1]; score.py also prints them for fractions.
- The package has the accuracy on all real data for only two pairs of dataset and network.
  {full}
  With eval_full_data it would train that network, but for num_epochs epochs instead of the number in its table.
- For ImageNet's subsets it reads an attribute 'targets' that a torch Subset does not have; score.py avoids this.
- LabelRobustScoreHard records every score twice and then fails to write its table; score.py writes it.
- LabelRobustScoreHard mixes images but keeps the label of only one of the two; score.py turns mixing off.
- Label mode S (stored labels) fails because an attribute is missing, and random_data_format 'tensor' because an
  argument is missing. With image folders, stored labels are ignored. So config.yaml uses mode M and images.
- GeneralEvaluator, and the augmentation-robust score with hard labels, use undefined names; score.py does not offer
  them.
- It normalises real ImageNet images before it resizes them, with its own constants.
"""

_SCORE = '''\
"""Score the images beside this file with DD-Ranking 0.2.0: python score.py soft|hard|augmentation."""

import json
import math
import os
import sys
from pathlib import Path

import torch
from ddranking import metrics
from ddranking.config import Config
from ddranking.utils import REAL_DATA_ACC_CACHE

METRICS = {
    "soft": metrics.LabelRobustScoreSoft,
    "hard": metrics.LabelRobustScoreHard,
    "augmentation": metrics.AugmentationRobustScore,
}


def normalised(exponent):
    return (math.exp(exponent) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def prepared(mode):
    config = Config.from_file("config.yaml")
    config.update({"save_path": f"./results/{mode}.csv"})
    if mode == "hard":
        config.update({"data_aug_func": None})  # it would mix images and keep the label of one of the two
    if not torch.cuda.is_available():
        config.update({"device": "cpu", "num_workers": 0})
    for name in config.get("teacher_model_names") if mode != "hard" else []:
        path = Path(config.get("teacher_dir")) / config.get("dataset") / name / "ckpt_best.pt"
        if not path.is_file():
            raise SystemExit(f"There is no teacher {path}; put its state dict there, or score with 'hard'.")
    return config


def work_around(mode, config, results):
    metric = METRICS[mode]
    sys.modules[metric.__module__].save_results = lambda found, path: results.update(found)  # 'hard' fails to write
    if config.get("full_data_percent") is not None:
        key = f"{config.get('dataset')}-{config.get('model_name')}"
        REAL_DATA_ACC_CACHE.setdefault(key, config.get("full_data_percent"))
    if not config.get("dataset").startswith("CIFAR"):  # random images are found by path; the index is of no use
        name = "_get_class_indices" if mode == "hard" else "_get_class_to_indices"
        setattr(metric, name, lambda *_: [])


def main(mode):
    os.chdir(Path(__file__).parent)
    config, results = prepared(mode), {}
    work_around(mode, config, results)
    METRICS[mode](config).compute_metrics(image_path="./images", syn_lr=config.get("default_lr"))
    first, second, _ = results.values()
    sign = 1 if mode == "augmentation" else -1  # hard-label recovery, the first, counts against a set
    scores = [normalised(0.005 * (sign * a + b)) for a, b in zip(first, second)]
    Path(f"results/{mode}.json").write_text(json.dumps({**results, "on_fractions": scores}, indent=2, default=float))
    print(f"On fractions: {sum(scores) / len(scores):.4f}, mean of {len(scores)} runs, in results/{mode}.json")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in METRICS:
        raise SystemExit(__doc__)
    main(sys.argv[1])
'''
