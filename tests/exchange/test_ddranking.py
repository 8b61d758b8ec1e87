"""A run in the layout of DD-Ranking's evaluator: images, class order, configuration, teacher."""

import json
import shutil

import pytest
import torch
import torchvision
import yaml
from torch import nn
from torchvision.transforms.v2 import functional as transforms

from attar.core.errors import AttarError
from attar.exchange import ddranking
from attar.exchange import ddranking_terms as terms
from attar.exchange.ddranking_terms import CIFAR10, Dataset, DDNetwork, Setup
from attar.models import build
from attar.models import teacher as teachers
from attar.models.teacher import Selection, Teacher
from attar.ops.mixing import MixChoice
from attar.ops.pixels import Normalisation
from attar.ops.views import ViewChoice
from attar.stages.dataset_info import read_info
from attar.stages.distilled import Distilled
from attar.stages.protocols import PROTOCOL_LABELS, PROTOCOLS
from attar.store import images as image_files
from attar.store import sealed
from conftest import edit_json

CLASSES = tuple(reversed(CIFAR10))
"""In another order than the evaluator's."""


@pytest.fixture(scope="module")
def run(mini_run, tmp_path_factory):
    """The small run, its digits named as CIFAR-10 names things, so that the evaluator has a dataset for it."""
    folder = tmp_path_factory.mktemp("named") / "run"
    shutil.copytree(mini_run, folder)
    edit_json(folder / "distilled" / "dataset.json", classes=CLASSES, name="./things")
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "out"
    ddranking.export(run, out)
    return out


def config_of(exported):
    return yaml.safe_load((exported / "config.yaml").read_text())


def info_with(run, **values):
    return read_info(run / "distilled").changed(**values)


def setup_with(name="cda", views=None, mix=None, **training):
    protocol = PROTOCOLS[name].changed(training=PROTOCOLS[name].training.changed(**training))
    return Setup(protocol, views or PROTOCOL_LABELS[name].views, mix or PROTOCOL_LABELS[name].mix, 32, 3)


def test_class_folders_are_in_the_evaluators_order_and_lossless(run, exported):
    distilled = Distilled(run / "distilled")
    folder = torchvision.datasets.ImageFolder(exported / "images")
    assert folder.classes == [f"{index:05d}" for index in range(10)]
    assert [CIFAR10[label] for _, label in folder] == [CIFAR10[index // 2] for index in range(20)]
    for index, name in enumerate(CIFAR10):
        mine = distilled.images[distilled.labels == CLASSES.index(name)]
        theirs = [transforms.pil_to_tensor(picture) for picture, label in folder if label == index]
        assert torch.equal(torch.stack(theirs), mine)


def test_the_configuration_is_the_runs_protocol(run, exported):
    config = config_of(exported)
    info = read_info(run / "distilled")
    assert (config["dataset"], config["ipc"], config["im_size"]) == ("CIFAR10", 2, [8, 8])
    assert (config["model_name"], config["teacher_model_names"]) == ("ConvNet-3-BN", ["ConvNet-3-BN"])
    assert config["loss_fn_kwargs"] == {"temperature": 4.0, "scale_loss": False}
    assert (config["data_aug_func"], config["aug_params"]) == ("mixup", {"lambda": 0.8})
    assert (config["optimizer"], config["default_lr"], config["weight_decay"]) == ("adamw", 0.003, 0.01)
    assert (config["num_epochs"], config["syn_batch_size"], config["num_eval"]) == (3, 25, 2)
    assert config["custom_train_trans"] == [
        {"name": "RandomCrop", "args": {"size": 8, "padding": 1}},
        {"name": "ToTensor"},
        {"name": "Normalize", "args": {"mean": list(info.mean), "std": list(info.std)}},
    ]
    assert [part["name"] for part in config["custom_val_trans"]] == ["Resize", "CenterCrop", "ToTensor", "Normalize"]
    scores = json.loads((run / "evaluate" / "manifest.json").read_text())["result"]["scores"]
    full = [100 * score["top1"] for score in scores if score["row"] == "full"]
    assert config["full_data_percent"] == pytest.approx(sum(full) / 2, abs=0.01)


def test_an_imagenet_protocol(run):
    info = info_with(run, size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    dataset, network = Dataset("ImageNet1K", tuple(range(10)), None), DDNetwork("ResNet-18-BN", True)
    setup = Setup(PROTOCOLS["cda"], ViewChoice(), MixChoice(kind="cutmix"), 256, 3)
    config = terms.settings(dataset, info, setup, network, network)
    assert [part["name"] for part in config["custom_train_trans"][:2]] == ["RandomResizedCrop", "RandomHorizontalFlip"]
    assert config["custom_train_trans"][0]["args"] == {"size": 224, "scale": [0.08, 1.0]}
    assert config["custom_val_trans"][0] == {"name": "Resize", "args": {"size": 256}}
    assert (config["data_aug_func"], config["aug_params"]) == ("cutmix", {"beta": 1.0})
    assert (config["stu_use_torchvision"], config["loss_fn_kwargs"]["temperature"]) == (True, 20.0)
    sgd = terms.settings(dataset, info, setup_with("tiny"), network, network)
    assert (sgd["optimizer"], sgd["momentum"], sgd["loss_fn_kwargs"]["scale_loss"]) == ("sgd", 0.9, True)
    assert (sgd["data_aug_func"], sgd["aug_params"]) == (None, None)


def test_the_teacher_answers_in_the_evaluators_order(run, exported):
    """Its ConvNet, written out: one sequence of convolution, BatchNorm, ReLU and pooling, then a linear layer."""
    state = torch.load(exported / "teacher_models" / "CIFAR10" / "ConvNet-3-BN" / "ckpt_best.pt", weights_only=True)
    with build.seeded(0):
        layers = [
            layer
            for channels in (3, 128, 128)
            for layer in (nn.Conv2d(channels, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.AvgPool2d(2))
        ]
        network = nn.ModuleDict({"features": nn.Sequential(*layers), "classifier": nn.Linear(128, 10)}).eval()
    network.load_state_dict(state)
    teacher = teachers.load(run / "squeeze")
    images = Distilled(run / "distilled").images[:6].float() / 255
    theirs = network["classifier"](network["features"](teacher.normalisation.apply(images)).flatten(1))
    torch.testing.assert_close(theirs, teacher.logits(images)[:, [CLASSES.index(name) for name in CIFAR10]])


def test_a_teacher_of_more_classes_is_written_with_those_of_the_set(tmp_path):
    names = tuple(f"class{index}" for index in range(12))
    network = build.build("resnet18", 12, 32, seed=1)
    chosen = ("class7", "class3", "class11")
    teacher = Teacher(Selection(network, names, chosen), "resnet18", "small", chosen, Normalisation(), 32)
    teacher.save(tmp_path / "squeeze")
    ddranking._write_teacher(tmp_path / "squeeze", Dataset("CIFAR10", (1, 2, 0), 32), tmp_path / "out")
    with build.seeded(0):
        small = torchvision.models.resnet18(num_classes=3)
        small.conv1, small.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    small.load_state_dict(torch.load(tmp_path / "out" / "ckpt_best.pt", weights_only=True))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(images), network(images)[:, [3, 11, 7]])


def wordnet_ids(indices):
    from timm.data.imagenet_info import ImageNetInfo

    names = ImageNetInfo("imagenet-1k").label_names()  # reads a file each time
    return [names[index] for index in indices]


@pytest.mark.parametrize("name", [*terms.SUBSETS])
def test_subsets_are_known_by_their_classes(run, name):
    wanted = wordnet_ids(terms.SUBSETS[name])
    found = terms.dataset_of(info_with(run, classes=tuple(sorted(wanted))))
    assert found.name == name
    assert [sorted(wanted)[label] for label in found.order] == wanted


@pytest.mark.parametrize(
    ("name", "classes", "dataset"),
    [
        ("cifar10", CIFAR10, "CIFAR10"),
        ("cifar100", tuple(f"c{index:02d}" for index in range(100)), "CIFAR100"),
        ("tiny-imagenet", tuple(f"n{index:08d}" for index in range(200)), "TinyImageNet"),
        ("./cifar", tuple(sorted([*terms._OF_CIFAR100, *(f"c{index:02d}" for index in range(96))])), "CIFAR100"),
        ("hf:someone/imagenet", tuple(wordnet_ids(range(1000))), "ImageNet1K"),
        ("imagenet-1k", tuple(f"word {999 - index}" for index in range(1000)), "ImageNet1K"),
    ],
)
def test_datasets_are_known(run, name, classes, dataset):
    found = terms.dataset_of(info_with(run, name=name, classes=classes))
    assert (found.name, found.order) == (dataset, tuple(range(len(classes))))


@pytest.mark.parametrize("classes", [tuple("0123456789"), CIFAR10[:5], tuple(f"n{index:08d}" for index in range(1000))])
def test_other_data_are_refused_in_a_sentence(run, classes):
    with pytest.raises(AttarError, match="DD-Ranking scores only CIFAR10, .*'attar report RUN --ranking'"):
        terms.dataset_of(info_with(run, name="./folder", classes=classes))


@pytest.mark.parametrize(
    ("architecture", "stem", "size", "name"),
    [
        ("resnet18", "small", 32, "ResNet-18-BN"),
        ("torchvision/resnet50", "small", 64, "ResNet-50-BN"),
        ("resnet18", "standard", 224, "ResNet-18-BN"),
        ("resnet18", "standard", 64, None),  # there the evaluator builds the small one
        ("resnet18", "small", 112, None),  # and there the standard one
        ("vgg11_bn", "standard", 32, "VGG-11-BN"),
        ("alexnet", "standard", 224, "AlexNet"),
        ("alexnet", "standard", 64, None),
        ("convnet4", "standard", 64, "ConvNet-4-BN"),
        ("convnet6", "standard", 32, None),  # six poolings leave nothing of it
        ("convnet3_in", "standard", 32, None),
        ("convnet3", "standard", 28, None),  # counts as 32 there
        ("resnet20", "standard", 32, None),
        ("timm/resnet18", "standard", 224, None),
        ("mobilenet_v2", "standard", 224, None),  # a teacher has no weights under any name but those above
        ("python:my.Net", "standard", 32, None),
    ],
)
def test_networks_that_are_the_same_there(architecture, stem, size, name):
    found = terms.network_of(architecture, stem, size)
    assert (found and found.name) == name
    assert found is None or found.torchvision == (not name.startswith("ConvNet"))


@pytest.mark.parametrize(
    ("architecture", "size", "name"),
    [
        ("resnet18", 32, "ResNet-18-BN"),
        ("mobilenet_v2", 32, "mobilenet_v2"),
        ("resnet101", 32, None),  # with the standard stem there
        ("resnet101", 224, "resnet101"),
        ("timm/vit_tiny_patch16_224", 32, None),  # cannot be told the images' size
        ("resnet20", 32, None),
    ],
)
def test_students_may_be_others_by_their_name(architecture, size, name):
    found = terms.student_of(architecture, "auto", size)
    assert (found and found.name) == name


def test_what_cannot_be_expressed_is_told(run):
    info, dataset = read_info(run / "distilled"), Dataset("CIFAR10", tuple(range(10)), 32)
    setup = setup_with("sre2l", warmup_epochs=5, betas=(0.9, 0.99), epochs=330)
    told = "\n".join(terms.unexpressed(dataset, info.changed(size=64), setup))
    assert "training.accumulation_steps = 2" in told
    assert "training.warmup_epochs = 5.0" in told
    assert "training.betas = [0.9, 0.99]" in told
    assert "training.decay_norms = False" in told
    assert "after epoch 320" in told
    assert "real images of 32 pixels" in told
    assert "cutmix draws one mix for the whole batch" in told
    assert "with its own constants (mean (0.4914, 0.4822, 0.4465)" in told


def test_squared_error_and_a_drawn_out_cosine_are_the_evaluators_own(run):
    info = info_with(run, size=32)
    setup = setup_with("edc")
    student = terms.student_of("resnet18", "auto", 32)
    found = terms.settings(Dataset("CIFAR10", tuple(range(10)), 32), info, setup, student, student)
    assert (found["soft_label_criterion"], found["lr_scheduler"]) == ("mse_gt", "cosine")
    assert found["loss_fn_kwargs"] == {"mse_weight": 1.0, "ce_weight": 0.025}
    told = "\n".join(terms.unexpressed(Dataset("CIFAR10", tuple(range(10)), 32), info, setup))
    assert "training.ema_decay = 0.99" in told
    assert "loss" not in told
    assert "falls" not in told


def test_what_can_be_expressed_is_not(run):
    info = info_with(run, size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.201))
    told = terms.unexpressed(Dataset("CIFAR10", tuple(range(10)), 32), info, setup_with("tiny", warmup_epochs=0))
    assert len(told) == 2
    assert "once per epoch" in told[0]
    assert "epochs of stored labels" in told[1]


def test_the_readme_tells_the_differences(run, exported):
    text = (exported / "README.txt").read_text()
    assert "python score.py soft" in text
    assert "training.decay_norms = False" in text
    assert "it never tests" in text
    assert max(map(len, text.splitlines())) <= 120
    compile((exported / "score.py").read_text(), "score.py", "exec")


def test_a_teacher_that_has_no_place_there_is_told(run, tmp_path, monkeypatch):
    monkeypatch.setattr(terms, "network_of", lambda *_: None)
    lines = ddranking.export(run, tmp_path / "out")
    assert not (tmp_path / "out" / "teacher_models").exists()
    text = (tmp_path / "out" / "README.txt").read_text()
    assert "The evaluator does not have the teacher convnet3 (standard stem)" in text
    assert "The evaluator does not have the student convnet3" in text
    assert lines[-1].endswith("score.py hard")


def test_a_set_without_soft_labels_is_scored_with_hard_ones(run, tmp_path):
    plain = tmp_path / "run"
    shutil.copytree(run, plain)
    shutil.rmtree(plain / "squeeze")
    labels = {**sealed.read_json(plain / "distilled" / "dataset.json", "")["labels"], "mode": "none", "scored": "hard"}
    edit_json(plain / "distilled" / "dataset.json", labels=labels, teachers=[])
    said = ddranking.export(plain, tmp_path / "out")
    assert said[0].endswith("images of CIFAR10, configuration")
    assert said[-1].endswith("score.py hard")
    assert not (tmp_path / "out" / "teacher_models").exists()
    text = " ".join((tmp_path / "out" / "README.txt").read_text().split())
    assert "The run made no soft labels, so teacher_models/ is empty" in text


def test_what_is_at_out_is_left_alone(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(AttarError, match="not an empty folder; choose another --out"):
        ddranking.export(run, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_nothing_half_written_remains(run, tmp_path, monkeypatch):
    calls = []

    def fail(*_):
        calls.append(0)
        if len(calls) == 3:
            raise MemoryError
        return b"x"

    monkeypatch.setattr(image_files, "encode", fail)
    with pytest.raises(MemoryError):
        ddranking.export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_another_teacher_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "squeeze" / "manifest.json"
    edit_json(path, result={"weights_sha256": "other"})
    with pytest.raises(AttarError, match="does not hold the teacher that made the soft labels; relabel again"):
        ddranking.export(tmp_path / "run", tmp_path / "out")


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(AttarError, match="not finished"):
        ddranking.export(tmp_path, tmp_path / "out")
