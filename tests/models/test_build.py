"""models/build.py: names, seeds, stems, sizes and refusals."""

import sys
import textwrap
from pathlib import Path

import pytest
import timm.layers
import torch
import torchvision
from torch import nn

from attar.core.errors import AttarError
from attar.models.build import (
    available,
    batchnorm_layers,
    build,
    check_forward,
    has_batchnorm,
    locate,
    resolve_stem,
)
from attar.models.small import SmallResNet


def test_names_are_attars_then_torchvisions_then_timms():
    assert locate("resnet20") == ("attar", "resnet20")
    assert locate("resnet18") == ("torchvision", "resnet18")
    assert locate("timm/resnet18") == ("timm", "resnet18")
    assert locate("resnet18d") == ("timm", "resnet18d")
    assert locate("timm/resnet18.a1_in1k") == ("timm", "resnet18.a1_in1k")
    assert locate("hf-hub:timm/resnet18.a1_in1k") == ("timm", "resnet18.a1_in1k")
    assert locate("hf_hub:timm/resnet18.a1_in1k") == ("timm", "resnet18.a1_in1k")
    assert isinstance(build("resnet20", 10, 32, seed=0), SmallResNet)
    assert isinstance(build("torchvision/resnet18", 10, 32, seed=0), torchvision.models.ResNet)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnt18", "resnet18"),
        ("timm/resnet18e", "timm/resnet18d"),
        ("torchvision/resnet20", "torchvision/resnet"),
        ("convnet99", "convnet"),
        ("qqqq", "resnet20"),
        ("fasterrcnn_resnet50_fpn", "resnet"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(name: str, near: str):
    with pytest.raises(AttarError, match=f"no network named '{name}'.*{near}") as caught:
        build(name, 10, 32, seed=0)
    assert len(str(caught.value)) < 400


def test_names_of_the_hub_build_the_same_network():
    one, two = (build(f"{prefix}timm/resnet18.a1_in1k", 3, 32, seed=0) for prefix in ("hf-hub:", ""))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    with pytest.raises(AttarError, match=r"hf-hub:someone/net is not one of timm's own.*--squeeze\.weights"):
        locate("hf-hub:someone/net")
    with pytest.raises(AttarError, match=r"no network named 'timm/resnet18e'; did you mean .*resnet18"):
        locate("hf-hub:timm/resnet18e")


def test_available_lists_and_filters():
    names = available()
    assert names[0] == "resnet20"
    assert names.index("torchvision/resnet18") < names.index("timm/resnet18")
    assert available("resnet18") == [name for name in names if "resnet18" in name]
    assert available("resnet[0-9][0-9]")[:4] == ["resnet20", "resnet32", "resnet44", "resnet56"]
    assert available("torchvision/vgg*_bn") == [f"torchvision/vgg{depth}_bn" for depth in (11, 13, 16, 19)]
    assert available("no such thing") == []


@pytest.mark.parametrize("name", ["resnet20", "convnet3", "resnet18", "timm/convnext_atto"])
def test_weights_depend_on_seed_and_name_alone(name: str):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = build(name, 4, 32, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = build(name, 4, 32, seed=1).state_dict(), build(name, 4, 32, seed=2).state_dict()
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_small_stem_of_the_resnet_family(name: str):
    network = build(name, 10, 32, seed=0)
    assert isinstance(network, torchvision.models.ResNet)
    assert network.conv1.weight.shape == (64, 3, 3, 3)
    assert network.conv1.stride == (1, 1)
    assert network.conv1.bias is None
    assert isinstance(network.maxpool, nn.Identity)
    assert network.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
    check_forward(network, 32, 10)


def test_a_vision_transformer_says_which_size_its_patches_fit_into():
    with pytest.raises(
        AttarError, match=r"patches of 16 x 16 pixels, .* 8 x 8 pixels .*; use --data.size 16, or another"
    ):
        check_forward(build("timm/test_vit", 10, 8, seed=0), 8, 10, name="timm/test_vit")


@pytest.mark.parametrize(
    ("name", "finer"), [("mobilenet_v2", 2), ("efficientnet_b0", 2), ("shufflenet_v2_x0_5", 4), ("densenet121", 4)]
)
def test_small_stems_of_other_families_keep_the_weights_count_and_the_map_finer(name: str, finer: int):
    """'auto' leaves them as they are, as runs before had them."""

    def last_map(network: nn.Module, side: int) -> torch.Size:
        shapes: list[torch.Size] = []
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(lambda _, __, answer: shapes.append(answer.shape[2:]))
        network.eval()(torch.zeros(1, 3, side, side))
        return shapes[-1]

    assert resolve_stem(name, 32, "auto") == "standard"
    small, standard = build(name, 10, 32, stem="small", seed=0), build(name, 10, 32, seed=0)
    assert last_map(small, 32) == last_map(standard, 32 * finer)
    for stem, other in zip(small.parameters(), standard.parameters(), strict=True):
        assert stem.shape[:2] == other.shape[:2]
    check_forward(small, 32, 10)


def test_auto_stem_follows_the_image_size():
    assert resolve_stem("resnet18", 112, "auto") == "small"
    assert resolve_stem("resnet18", 113, "auto") == "standard"
    assert resolve_stem("resnet18", 224, "small") == "small"
    assert resolve_stem("resnet18", 32, "standard") == "standard"
    assert resolve_stem("vgg11_bn", 32, "auto") == resolve_stem("timm/resnet18", 32, "auto") == "standard"
    network = build("resnet18", 10, 32, stem="standard", seed=0)
    assert network.get_submodule("conv1").weight.shape == (64, 3, 7, 7)


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet20", "timm/resnet18", "mobilenet_v3_small"])
def test_small_stem_elsewhere_is_refused(name: str):
    with pytest.raises(AttarError, match=f"{name} cannot have a small stem"):
        build(name, 10, 32, stem="small", seed=0)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilenet_v2", 32),
        ("shufflenet_v2_x0_5", 32),
        ("timm/vit_tiny_patch16_224", 64),
        ("timm/convnext_atto", 32),
        ("googlenet", 64),
        ("inception_v3", 80),
        ("vit_b_32", 64),
    ],
)
def test_networks_of_other_makers_take_small_images(name: str, size: int):
    network = build(name, 7, size, seed=0)
    check_forward(network, size, 7)
    assert isinstance(network(torch.zeros(2, 3, size, size)), torch.Tensor)  # no auxiliary outputs in training either


@pytest.mark.parametrize(("name", "size"), [("vit_b_32", 50), ("maxvit_t", 50)])
def test_a_size_that_cannot_be_built_is_a_sentence(name: str, size: int):
    with pytest.raises(AttarError, match=f"{name} cannot take 50 x 50 images .*--data.size"):
        build(name, 7, size, seed=0)


def test_check_forward_names_network_size_and_reason():
    with pytest.raises(AttarError, match=r"alexnet cannot take 16 x 16 images \(.+\); choose another --data.size") as e:
        check_forward(build("alexnet", 3, 16, seed=0), 16, 3, name="alexnet")
    assert "\n" not in str(e.value)
    with pytest.raises(AttarError, match=r"SmallResNet .*\[2, 10\], not \[2, 3\]"):
        check_forward(build("resnet20", 10, 16, seed=0), 16, 3)


def test_check_forward_changes_nothing():
    network = build("resnet20", 3, 16, seed=0)
    network.bn1.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    check_forward(network, 16, 3)
    assert network.training
    assert not network.bn1.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_batchnorm_layers_in_order_of_every_kind():
    network = nn.Sequential(
        nn.BatchNorm2d(1),
        nn.BatchNorm1d(2),
        nn.Sequential(timm.layers.BatchNormAct2d(3)),
        nn.SyncBatchNorm(4),
        nn.BatchNorm2d(5, track_running_stats=False),
        nn.GroupNorm(1, 6),
    )
    assert [layer.num_features for layer in batchnorm_layers(network)] == [1, 3, 4]
    assert len(batchnorm_layers(build("resnet18", 10, 32, seed=0))) == 20
    assert has_batchnorm(build("timm/efficientnet_lite0", 10, 32, seed=0))
    assert not has_batchnorm(build("timm/vit_tiny_patch16_224", 10, 32, seed=0))


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "outside_nets.py").write_text(
        textwrap.dedent("""
        from torch import nn

        def tiny(num_classes, image_size):
            return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))

        def wrong(num_classes, image_size):
            return "a network"

        def broken(num_classes, image_size):
            raise ValueError("its author's mistake")
        """)
    )
    (tmp_path / "outside_broken.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "outside_nets"
    sys.modules.pop("outside_nets", None)


def test_factories_outside_are_seeded_too(outside: str):
    one, two = (build(f"{outside}:tiny", 5, 8, seed=3) for _ in range(2))
    assert torch.equal(one.get_parameter("1.weight"), two.get_parameter("1.weight"))
    check_forward(one, 8, 5)


def test_faulty_factories_are_named(outside: str):
    with pytest.raises(AttarError, match="no module 'no_such_module'"):
        build("no_such_module:tiny", 5, 8, seed=0)
    with pytest.raises(AttarError, match="no function 'tinny'"):
        build(f"{outside}:tinny", 5, 8, seed=0)
    with pytest.raises(AttarError, match=r"returned a str; it must return a torch\.nn\.Module"):
        build(f"{outside}:wrong", 5, 8, seed=0)
    with pytest.raises(
        AttarError, match=r"broken fails in outside_nets\.py, line 11 \(ValueError: its author's mistake"
    ):
        build(f"{outside}:broken", 5, 8, seed=0)
    with pytest.raises(AttarError, match=r"cannot be imported.* outside_broken\.py, line 1 .*no_such_dependency"):
        build("outside_broken:tiny", 5, 8, seed=0)
