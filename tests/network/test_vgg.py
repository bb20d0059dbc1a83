"""The network is torchvision's VGG, number for number, and what the design adds to it."""

import inspect
import math

import pytest
import torch
import torchvision
from networks import random_values, with_values
from torch import Tensor, nn
from torch.nn import functional as F

from vgg.network import pooling
from vgg.network.config import IMAGENET_NAMES, Preprocessing, depth_and_norm
from vgg.network.heads import HEADS
from vgg.network.summary import count_parameters
from vgg.network.vgg import VGG

CLASSES = 10


def theirs(name: str, num_classes: int = 1000) -> nn.Module:
    """torchvision's network, shapes only: it takes no memory."""
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, num_classes=num_classes).eval()


def ours(name: str, num_classes: int = 1000) -> VGG:
    depth, batch_norm = depth_and_norm(name)
    with torch.device("meta"):
        return VGG(depth, num_classes, init_weights=False, batch_norm=batch_norm).eval()


@pytest.fixture(scope="module")
def classifier() -> dict[str, Tensor]:
    """Values of the three fully connected layers, the same shapes in all eight: made once."""
    state = {k: v for k, v in theirs("vgg11", CLASSES).state_dict().items() if "classifier" in k}
    return random_values(state)


def test_the_signature_begins_as_the_lesson_has_it() -> None:
    parameters = list(inspect.signature(VGG).parameters.values())
    assert [(p.name, p.default) for p in parameters[:3]] == [
        ("num_layers", 16),
        ("num_classes", 2),
        ("init_weights", True),
    ]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[3:])


@pytest.mark.parametrize("name", IMAGENET_NAMES)
def test_parameter_names_order_and_shapes_are_torchvisions(name: str) -> None:
    expected = {key: value.shape for key, value in theirs(name).state_dict().items()}
    found = {key: value.shape for key, value in ours(name).state_dict().items()}
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize("name", IMAGENET_NAMES)
def test_logits_and_input_gradients_are_torchvisions(
    name: str, classifier: dict[str, Tensor]
) -> None:
    reference, model = theirs(name, CLASSES), ours(name, CLASSES)
    trunk = {k: v for k, v in reference.state_dict().items() if "features" in k}
    state = random_values(trunk) | classifier
    reference.load_state_dict(state, assign=True)
    model.load_state_dict(state, strict=True, assign=True)
    pictures = torch.randn(2, 3, 64, 48)
    results = []
    for network in (reference, model):
        network.requires_grad_(False)
        x = pictures.clone().requires_grad_()
        logits = network(x)
        logits[:, 3].sum().backward()
        results.append((logits.detach(), x.grad))
    (their_logits, their_gradient), (logits, gradient) = results
    assert logits.std() > 0.1  # so that 1e-5 is small against them
    assert gradient.std() > 1e-3
    torch.testing.assert_close(logits, their_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, their_gradient, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(6, 32, 32), (9, 64, 33), (16, 32, 96)])
def test_small_pictures_take_a_shorter_way_to_the_same_answers_and_gradients(
    shape: tuple[int, int, int],
) -> None:
    count, height, width = shape
    model = with_values(VGG(11, 5, batch_norm=False, width=0.0625, dropout=0.0))
    pictures = torch.randn(count, 3, height, width)
    results = []
    for long_way in (True, False):
        passed: list[Tensor] = []
        hook = model.classifier[0].register_forward_hook(lambda _m, _a, y, p=passed: p.append(y))
        x = pictures.clone().requires_grad_()
        logits = model.classifier(model.pool(x)) if long_way else model(x)
        assert bool(passed) == long_way  # the first layer's own product is not worked out
        hook.remove()
        gradients = torch.autograd.grad(logits.pow(2).sum(), [x, model.classifier[0].weight])
        results.append((logits.detach(), *gradients))
    for slow, quick in zip(*results, strict=True):
        torch.testing.assert_close(quick, slow, atol=1e-5 * slow.abs().max().item(), rtol=0)


@pytest.mark.parametrize("depth", [11, 19])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_convolutions_begin_as_he_et_al_say(depth: int, batch_norm: bool) -> None:
    model = VGG(depth, batch_norm=batch_norm, head="gap")
    convolutions = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == depth - 3
    for layer in convolutions:
        he = math.sqrt(2 / (9 * layer.out_channels))
        assert layer.weight.std().item() == pytest.approx(he, rel=0.05)
        assert layer.weight.mean().abs() < 0.1 * he
        assert not layer.bias.any()


def test_other_layers_begin_as_the_paper_says() -> None:
    model = VGG(11, 50, width=0.5)
    linear = [layer for layer in model.classifier if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [2048, 2048, 50]
    for layer in linear:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert layer.weight.mean().abs() < 0.0005
        assert not layer.bias.any()
    norms = [layer for layer in model.features if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 8
    assert all((layer.weight == 1).all() and not layer.bias.any() for layer in norms)


def test_the_same_seed_gives_the_same_network() -> None:
    networks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        networks.append(VGG(11, width=0.05, head="gap").features[0].weight)
    assert torch.equal(networks[0], networks[1])
    assert not torch.equal(networks[0], networks[2])


@pytest.mark.parametrize("depth", [12, 0, -16, 16.0, "16", None])
def test_another_depth_is_a_value_error_that_names_the_four(depth: object) -> None:
    with pytest.raises(ValueError, match="11, 13, 16 or 19"):
        VGG(depth)  # type: ignore[arg-type]


def test_gap_head_averages_the_last_relus_output() -> None:
    model = with_values(VGG(11, 5, head="gap", width=0.1))
    x = torch.randn(2, 3, 64, 96)
    maps = model.features[:-1](x)  # all but the last max-pool
    assert maps.shape == (2, 51, 4, 6)
    expected = maps.flatten(2).mean(2) @ model.classifier[0].weight.T + model.classifier[0].bias
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_stages_head_reads_the_last_relu_of_stages_3_4_and_5(batch_norm: bool) -> None:
    model = with_values(VGG(16, 5, head="stages", width=0.1, batch_norm=batch_norm))
    x = torch.randn(2, 3, 64, 96)
    before_pools, y = [], x
    for layer in model.features:
        if isinstance(layer, nn.MaxPool2d):
            before_pools.append(y)
        y = layer(y)
    assert [tuple(m.shape[1:]) for m in before_pools] == [
        (6, 64, 96),
        (13, 32, 48),
        (26, 16, 24),
        (51, 8, 12),
        (51, 4, 6),
    ]
    parts = []
    for maps in before_pools[2:]:
        rooted = maps.mean((2, 3)).sqrt()
        parts.append(rooted / rooted.pow(2).sum(1, keepdim=True).sqrt())
    read = torch.cat(parts, 1)
    # A channel that is 0 everywhere counts as 1e-4, so that its slope is finite.
    torch.testing.assert_close(model.pool(x), read, atol=1e-3, rtol=0)
    torch.testing.assert_close(model(x), model.classifier(read), atol=1e-3, rtol=0)


def test_stages_head_learns_where_a_whole_channel_is_dark() -> None:
    model = VGG(11, 2, head="stages", width=0.05, batch_norm=False)
    model(torch.zeros(1, 3, 32, 32)).sum().backward()  # every average is exactly 0
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_width_scales_every_layer(head: str) -> None:
    model = VGG(11, 5, head=head, width=0.125)
    channels = [layer.out_channels for layer in model.features if isinstance(layer, nn.Conv2d)]
    assert channels == [8, 16, 32, 32, 64, 64, 64, 64]
    inputs = {"fc": 64 * 49, "gap": 64, "stages": 32 + 64 + 64}[head]
    assert model.classifier[0].in_features == inputs
    assert model.classifier[-1].out_features == 5
    if head == "fc":
        assert model.classifier[3].in_features == model.classifier[3].out_features == 512


@pytest.mark.parametrize("head", HEADS)
def test_no_classes_make_a_trunk_that_gives_what_a_classifier_would_read(head: str) -> None:
    trunk = VGG(11, 0, head=head, width=0.1).eval()
    whole = VGG(11, 3, head=head, width=0.1).eval()
    whole.features = trunk.features
    x = torch.randn(2, 3, 40, 40)
    assert len(trunk.classifier) == 0
    torch.testing.assert_close(whole.classifier(trunk(x)), whole(x))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(32, 32), (33, 50), (224, 40)])
def test_any_size_from_32_up_is_taken(head: str, size: tuple[int, int]) -> None:
    assert VGG(11, 3, head=head, width=0.05).eval()(torch.zeros(2, 3, *size)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(1, 3, 31, 64), (1, 3, 64, 31), (1, 1, 32, 32), (3, 32, 32)])
def test_other_inputs_are_refused_with_their_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"from 32 up, not \(" + ", ".join(map(str, shape))):
        VGG(11, width=0.05)(torch.zeros(shape))


@pytest.mark.parametrize("head", HEADS)
def test_folding_batch_norm_changes_no_answer(head: str) -> None:
    model = with_values(VGG(13, 4, head=head, width=0.1))
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        before = model(x)
        after = model.fold_batch_norm()(x)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_batch_norm_is_not_folded_while_it_learns() -> None:
    with pytest.raises(ValueError, match="eval"):
        VGG(11, width=0.05).fold_batch_norm()


def test_a_config_made_by_hand_has_imagenets_preprocessing_and_is_untrained() -> None:
    config = VGG(13, 4, batch_norm=False, head="gap", width=0.05).config
    assert (config.architecture, config.num_classes) == ("vgg13", 4)
    assert config.label_names == ("class 0", "class 1", "class 2", "class 3")
    assert config.pretrained_cfg == Preprocessing()
    assert not config.trained


@pytest.mark.parametrize("hidden", [(), (512,), (64, 32, 16)])
@pytest.mark.parametrize("pool", [1, 3, 7])
def test_heads_of_any_depth_read_a_grid_of_any_size(hidden: tuple[int, ...], pool: int) -> None:
    model = with_values(VGG(11, 5, width=0.125, hidden=hidden, pool=pool))
    sizes = [64 * pool**2, *(count // 8 for count in hidden), 5]
    linear = [layer for layer in model.classifier if isinstance(layer, nn.Linear)]
    assert [layer.in_features for layer in linear] == sizes[:-1]
    assert [layer.out_features for layer in linear] == sizes[1:]
    assert count_parameters(model.config) == sum(p.numel() for p in model.parameters())
    for count, size in ((1, 224), (9, 64), (9, 32)):
        x = torch.randn(count, 3, size, size)
        pooled = F.adaptive_avg_pool2d(model.features(x), pool).flatten(1)
        torch.testing.assert_close(model(x), model.classifier(pooled), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", [1, 2, 7])
@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (7, 7), (8, 14), (9, 13)])
def test_pooling_for_devices_without_torchs_own_is_the_same(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], pool: int
) -> None:
    maps = torch.rand(2, 3, *shape, requires_grad=True)
    results = []
    for devices in (("cpu",), ()):
        monkeypatch.setattr(pooling, "WITH_ADAPTIVE_POOLING", devices)
        means = pooling.AverageGrid(pool)(maps)
        results.append((means, *torch.autograd.grad(means.square().sum(), maps)))
    for mine, torchs in zip(*results, strict=True):
        torch.testing.assert_close(mine, torchs, atol=1e-6, rtol=1e-6)
