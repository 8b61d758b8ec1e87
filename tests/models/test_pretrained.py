"""models/pretrained.py: published weights (their downloads replaced by local ones) and local checkpoints."""

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torchvision.models import ResNet18_Weights, WeightsEnum

from attar.core.errors import AttarError
from attar.models.build import build, check_forward
from attar.models.pretrained import Pretrained, imagenet_classes, pretrained
from attar.models.teacher import Teacher, load
from attar.ops.pixels import Normalisation

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def resnet18(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A state dict that both libraries 'download'; their ResNet-18 have the same keys."""
    state = build("resnet18", 1000, 224, seed=7).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(state))
    return state


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fail)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1", "DEFAULT"])
def test_torchvision(resnet18: dict[str, torch.Tensor], weights: str):
    state = torch.get_rng_state()
    found = pretrained("resnet18", weights, 10, 64, "auto")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found.module.state_dict()["fc.weight"], resnet18["fc.weight"])
    assert (found.architecture, found.stem, found.image_size) == ("torchvision/resnet18", "standard", 224)
    assert found.normalisation == IMAGENET
    assert found.classes is not None
    assert (found.classes[0], found.classes[-1], len(set(found.classes))) == ("n01440764", "n15075141", 1000)


@pytest.mark.parametrize(
    ("name", "weights", "architecture"),
    [
        ("resnet18", "pretrained", "timm/resnet18"),
        ("resnet18", "a1_in1k", "timm/resnet18.a1_in1k"),
        ("timm/resnet18.a2_in1k", "pretrained", "timm/resnet18.a2_in1k"),
        ("hf-hub:timm/resnet18.a2_in1k", "pretrained", "timm/resnet18.a2_in1k"),
        ("hf_hub:timm/resnet18.a2_in1k", "pretrained", "timm/resnet18.a2_in1k"),
    ],
)
def test_timm(resnet18: dict[str, torch.Tensor], name: str, weights: str, architecture: str):
    found = pretrained(name, weights, 10, 64, "auto")
    assert torch.equal(found.module.state_dict()["layer1.0.conv1.weight"], resnet18["layer1.0.conv1.weight"])
    assert (found.architecture, found.stem, found.image_size) == (architecture, "standard", 224)
    assert found.normalisation == IMAGENET
    assert found.classes == imagenet_classes(1000)


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "a1_in1k"])
def test_what_is_found_makes_a_teacher_that_can_be_loaded_again(
    resnet18: dict[str, torch.Tensor], tmp_path: Path, weights: str
):
    found = pretrained("resnet18", weights, 10, 64, "auto")
    save_and_load(found, tmp_path, 64)


def save_and_load(found: Pretrained, folder: Path, size: int) -> None:
    assert found.classes is not None
    assert found.normalisation is not None
    assert found.image_size is not None
    teacher = Teacher(
        found.module, found.architecture, found.stem, found.classes, found.normalisation, found.image_size
    )
    teacher.save(folder)
    images = torch.linspace(0, 1, 2 * 3 * size * size).reshape(2, 3, size, size)
    assert torch.equal(load(folder).logits(images), teacher.logits(images))


def test_a_timm_vit_is_fitted_to_the_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    state = timm.create_model("vit_tiny_patch16_224", num_classes=21843).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(state))
    monkeypatch.setattr("timm.models.vision_transformer.VisionTransformer.load_pretrained", lambda *_, **__: None)
    found = pretrained("vit_tiny_patch16_224", "augreg_in21k", 10, 64, "auto")
    check_forward(found.module, 64, 21843)
    assert found.normalisation == Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert found.classes == imagenet_classes(21843)
    save_and_load(found, tmp_path, 64)


def test_googlenet_is_the_same_function_when_rebuilt(monkeypatch: pytest.MonkeyPatch):
    theirs = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=True, transform_input=True)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: theirs.state_dict())
    found = pretrained("googlenet", "IMAGENET1K_V1", 1000, 64, "auto")
    assert found.normalisation is not None
    rebuilt = build("googlenet", 1000, 64, seed=0)
    rebuilt.load_state_dict(found.module.state_dict())
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.eval()(IMAGENET.apply(images))
        torch.testing.assert_close(found.module.eval()(found.normalisation.apply(images)), expected)
        torch.testing.assert_close(rebuilt.eval()(found.normalisation.apply(images)), expected)


@pytest.mark.parametrize(
    ("name", "weights"), [("resnet18", "IMAGENET1K_V1"), ("timm/resnet18", "pretrained"), ("timm/resnet18", "a1_in1k")]
)
def test_without_a_network_the_sentence_says_what_else_to_do(offline: None, name: str, weights: str):
    with pytest.raises(AttarError, match=f"Cannot download the weights '{weights}' of {name} .*--squeeze.weights PATH"):
        pretrained(name, weights, 10, 64, "auto")


def test_unknown_weights_are_refused():
    with pytest.raises(AttarError, match="'IMAGENET1K_V9'; did you mean IMAGENET1K_V1"):
        pretrained("resnet18", "IMAGENET1K_V9", 10, 64, "auto")
    with pytest.raises(AttarError, match=r"'a9_in1k'; did you mean .*a1_in1k"):
        pretrained("timm/resnet18", "a9_in1k", 10, 64, "auto")
    with pytest.raises(AttarError, match="'pretrained'"):
        pretrained("torchvision/resnet18", "pretrained", 10, 64, "auto")
    with pytest.raises(AttarError, match="resnet20 has no published weights"):
        pretrained("resnet20", "IMAGENET1K_V1", 10, 32, "auto")
    with pytest.raises(AttarError, match="no network named 'resnt18'"):
        pretrained("resnt18", "IMAGENET1K_V1", 10, 32, "auto")


@pytest.mark.parametrize("weights", ["hf-hub:timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"])
def test_a_network_given_as_weights_is_told_apart(weights: str):
    with pytest.raises(AttarError, match=r"--squeeze\.architecture timm/resnet18\.a1_in1k --squeeze\.weights pre"):
        pretrained("resnet18", weights, 10, 64, "auto")


def test_a_list_of_names_that_does_not_fit_the_weights_is_told(tmp_path: Path):
    state = build("resnet20", 4, 32, seed=3).state_dict()
    torch.save({"model": state, "classes": ["a", "b", "c"]}, tmp_path / "c.pth")
    with pytest.raises(AttarError, match=r"the checkpoint has 4 classes, its list of names 3"):
        pretrained("resnet20", str(tmp_path / "c.pth"), 4, 32, "auto")


def test_a_folder_of_that_name_does_not_hide_published_weights(
    resnet18: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "pretrained").mkdir()
    monkeypatch.chdir(tmp_path)
    assert pretrained("timm/resnet18", "pretrained", 10, 64, "auto").architecture == "timm/resnet18"


def test_published_weights_have_the_standard_stem():
    with pytest.raises(AttarError, match="'IMAGENET1K_V1' have the standard stem"):
        pretrained("resnet18", "IMAGENET1K_V1", 1000, 64, "small")


def test_imagenet_variants():
    counts = (1000, 10450, 11221, 11821, 21841, 21842, 21843)
    for count in counts:
        classes = imagenet_classes(count)
        assert classes is not None
        assert len(set(classes)) == count
        assert all(name[0] == "n" and len(name) == 9 for name in classes)
    assert imagenet_classes(10) is None
    assert ResNet18_Weights.IMAGENET1K_V1.meta["categories"][0] == "tench"  # n01440764: the same order


def test_a_local_checkpoint(tmp_path: Path):
    network = build("resnet20", 4, 32, seed=3)
    torch.save({"model": {f"module.{key}": value for key, value in network.state_dict().items()}}, tmp_path / "c.pth")
    found = pretrained("resnet20", str(tmp_path / "c.pth"), 4, 32, "auto")
    assert torch.equal(found.module.get_parameter("fc.weight"), network.get_parameter("fc.weight"))
    assert (found.architecture, found.stem) == ("resnet20", "standard")
    assert (found.classes, found.normalisation, found.image_size) == (None, None, None)
    with pytest.raises(AttarError, match="the checkpoint has 4 classes, the data 5"):
        pretrained("resnet20", str(tmp_path / "c.pth"), 5, 32, "auto")
    with pytest.raises(AttarError, match=r"no checkpoint .*none\.pth"):
        pretrained("resnet20", str(tmp_path / "none.pth"), 5, 32, "auto")


def test_the_weights_of_an_attar_teacher_bring_what_is_known_of_them(tmp_path: Path):
    normalisation = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    network = build("resnet18", 3, 32, stem="small", seed=3)
    Teacher(network, "resnet18", "small", ("a", "b", "c"), normalisation, 32).save(tmp_path)
    found = pretrained("resnet18", str(tmp_path / "teacher.safetensors"), 2, 128, "auto")
    assert (found.classes, found.normalisation, found.image_size) == (("a", "b", "c"), normalisation, 32)
    assert found.stem == "small"
    assert torch.equal(found.module.get_parameter("fc.weight"), network.get_parameter("fc.weight"))


def test_the_weights_of_an_attar_teacher_are_built_at_its_own_size(tmp_path: Path):
    network = build("convnet3", 3, 32, seed=3)
    Teacher(network, "convnet3", "standard", ("a", "b", "c"), IMAGENET, 32).save(tmp_path)
    found = pretrained("convnet3", str(tmp_path / "teacher.safetensors"), 3, 64, "auto")
    assert found.image_size == 32
    check_forward(found.module, 64, 3)
