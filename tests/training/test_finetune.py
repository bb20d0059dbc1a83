"""Facts about fine-tuning: never worse than the probe, only the upper stages move, it can be
stopped, killed and repeated, and says why it did what it did."""

import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from networks import same_weights
from torch import nn
from trainings import events_in, json_in, untaught

from vgg.checkpoints.folder import save_checkpoint
from vgg.checkpoints.loading import load_model
from vgg.data.images import read_image
from vgg.data.shapes import SHAPES, draw_folder
from vgg.data.transforms import normalise, to_uint8
from vgg.inference.predictor import Predictor
from vgg.network.config import Preprocessing
from vgg.network.vgg import VGG
from vgg.training import cached_maps, finetune, finetune_plan, logistic
from vgg.training.cached_maps import ActivationCache, CachedPictures, Zoomed, zoom
from vgg.training.features import Trunk
from vgg.training.loop import train_loop
from vgg.training.partly_frozen import PartlyFrozenVGG, early_size, new_optimizer, row_size
from vgg.training.recipe import Epoch, Recipe, learning_rate
from vgg.training.trainer import TrainResult, train

CPU = torch.device("cpu")
CFG = Preprocessing(input_size=(3, 64, 64), crop_mode="border", crop_pct=1.0)
STARTER = ROOT / "weights" / "starter"

pytestmark = pytest.mark.usefixtures("own_places")


@pytest.fixture(autouse=True)
def _few_strengths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the probe's penalty is chosen is the matter of other tests: two take a third of the
    time of seven. Slow tests take it as it is."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(logistic, "STRENGTHS", (0.1, 0.01))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures of each of eight shapes."""
    folder = tmp_path_factory.mktemp("drawn") / "shapes"
    draw_folder(folder, count=30, size=32)
    return folder


def network(head: str = "stages", *, batch_norm: bool = True) -> VGG:
    """A small VGG-11 whose batch norms have seen something."""
    torch.manual_seed(0)
    model = VGG(11, 3, head=head, width=0.06, batch_norm=batch_norm)
    model(torch.randn(8, 3, 64, 64))
    model.config = replace(model.config, pretrained_cfg=CFG, extra={"temperature": 2.0})
    return model.eval()


@pytest.fixture
def last_stage_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a large network on a CPU."""
    monkeypatch.setattr(finetune_plan, "LIGHT_MACS", 0)


def tune(folder: Path, trunk: Path, out: Path, **choices: Any) -> TrainResult:
    return train(folder, model=str(trunk), out=out, **{"mode": "finetune", **choices})


# The network that is tuned


@pytest.mark.parametrize("head", ["gap", "stages", "fc"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_from_cached_outputs_of_the_fourth_pool_come_the_answers_for_the_picture(
    shapes: Path, head: str, batch_norm: bool
) -> None:
    model = network(head, batch_norm=batch_norm)
    pixels = torch.stack([to_uint8(read_image(f), CFG) for f in sorted(shapes.glob("*.png"))])
    cache = ActivationCache(len(pixels), early_size(model.config))
    features, maps = Trunk(model, head, CFG, device=CPU).with_maps(pixels)
    for row, found_here in enumerate(zip(features, maps, strict=True)):
        cache.put(row, *found_here)
    assert cache.lines.shape == (2 * len(pixels), row_size(model.config))
    tuned = PartlyFrozenVGG.of(model, 4)
    with torch.inference_mode():
        wanted = model(normalise(pixels, CFG)) / model.config.temperature
        assert torch.allclose(tuned(normalise(pixels, CFG)), wanted, atol=1e-5)
        found = tuned(cache.lines[: len(pixels)].float())
    assert torch.allclose(found, wanted, rtol=1e-2, atol=0.02 * wanted.std())


@pytest.mark.parametrize("frozen", [2, 4])
def test_only_the_stages_that_are_to_learn_change(frozen: int) -> None:
    model = network()
    tuned = PartlyFrozenVGG.of(model, frozen)
    x = torch.rand(32, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pictures = Zoomed((255 * x).to(torch.uint8), torch.arange(32) % 3, torch.arange(32))
    train_loop(
        tuned, pictures, pictures, 96, Recipe(batch_size=8, lr=0.01), optimizer=new_optimizer
    )
    after = tuned.state_dict()
    before = model.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    first = model.stage_ends[frozen - 1] + 2
    assert {int(key.split(".")[1]) for key in changed if key.startswith("features.")} == {
        index
        for index, layer in enumerate(model.features)
        if index >= first and isinstance(layer, nn.Conv2d | nn.BatchNorm2d)
    }
    assert not any("running" in key or "num_batches" in key for key in changed)
    last = tuned.classifier[-1].weight * model.config.temperature
    assert torch.allclose(last, model.classifier[-1].weight)


def test_what_is_tuned_is_a_copy_and_the_result_a_plain_vgg() -> None:
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    tuned = PartlyFrozenVGG.of(model, 2)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert type(tuned.plain()) is VGG


def test_rates_fall_to_a_third_with_each_stage_down_and_suit_the_size_of_the_weights() -> None:
    tuned = PartlyFrozenVGG.of(network(), 2)
    groups = new_optimizer(tuned, Recipe(), 0.1).param_groups
    rates = {id(group["params"][0]): group["lr_scale"] for group in groups}
    shares = []
    for layers in tuned.stages[2:]:
        weight = next(layers.parameters())
        shares.append(rates[id(weight)] / weight.detach().square().mean().sqrt().item())
    assert shares == pytest.approx([1 / 9, 1 / 3, 1])


def test_the_rate_falls_as_a_cosine() -> None:
    rates = [learning_rate(progress, 0.1, cosine=True) for progress in (0.05, 0.1, 0.55, 1)]
    assert rates == pytest.approx([0.5, 1, 0.5, 0.001])


# What it learns from


def test_mirror_images_come_for_one_in_two_and_only_while_learning() -> None:
    rows = torch.cat([torch.zeros(200, 5), torch.ones(200, 5)]).half()
    pictures = CachedPictures(rows, torch.zeros(200, dtype=torch.int64), torch.arange(200))
    x, _ = pictures.take(pictures.rows, CPU, CFG, torch.Generator().manual_seed(0))
    assert 60 < x[:, 0].sum() < 140
    assert pictures.take(pictures.rows, CPU, CFG)[0].sum() == 0


def test_maps_of_another_size_push_earlier_ones_out_of_the_cache() -> None:
    cache = ActivationCache(2, 2)
    cache.put(0, np.zeros(4, np.float16), torch.zeros(3, 4, 4, dtype=torch.float16))
    cache.put(1, np.ones(4, np.float16), torch.ones(3, 2, 2, dtype=torch.float16))
    assert cache.filled.tolist() == [False, True, False, False]
    assert cache.lines.shape == (4, 2 + 3 * 4)
    assert cache.lines[1].tolist() == [1] * 14


def test_a_zoom_shows_a_part_of_the_picture_enlarged_and_at_times_mirrored() -> None:
    ramp = torch.arange(64.0).expand(1, 64, 64).repeat(500, 3, 1, 1)  # column c is worth c
    seen = zoom(ramp, torch.Generator().manual_seed(0))
    slope = (seen[:, 0, 32, 40] - seen[:, 0, 32, 24]) / 16
    assert slope.abs().max() <= 1.001
    assert slope.abs().min() >= (0.35 * 3 / 4) ** 0.5 - 0.01
    assert 0.4 < (slope < 0).float().mean() < 0.6
    assert seen.min() >= 0
    assert seen.max() <= 63
    assert torch.equal(seen, zoom(ramp, torch.Generator().manual_seed(0)))
    same_way = zoom(ramp, torch.Generator().manual_seed(0), mirror=False)
    assert (same_way[:, 0, 32, 40] > same_way[:, 0, 32, 24]).all()


# The whole way


@pytest.mark.slow
def test_stages_learn_what_the_last_layer_alone_can_not(tmp_path: Path) -> None:
    drawn, out = tmp_path / "shapes", tmp_path / "model"
    draw_folder(drawn, count=60, size=32)
    for name in set(SHAPES) - {"circle", "star"}:
        shutil.rmtree(drawn / name)
    result = tune(drawn, untaught(tmp_path / "trunk", width=0.125), out, epochs=20, seed=2)
    metrics = json_in(out, "metrics")
    assert result.mode == metrics["kept"] == "finetune"
    assert metrics["accuracy_finetune"] == result.accuracy
    assert result.accuracy > metrics["accuracy_probe"]
    assert result.epochs == metrics["epochs_of_finetune"] == 20
    assert metrics["temperature_from"] == "held_out"
    assert "last layer alone" in result.notes[-1]
    assert {field.name for field in fields(Epoch)} <= events_in(out, "epoch")[0].keys()

    model = load_model(out)
    assert model.config.head == "stages"
    assert model.config.temperature == metrics["temperature"]
    split = json_in(out, "split")
    predictor = Predictor(model, "cpu", "fp32")
    answers = predictor.predict([drawn / name for name in split["held_out"]], top_k=1)
    found = [answer.class_names[0] for answer in answers]
    right = [f == name.split("/")[0] for f, name in zip(found, split["held_out"], strict=True)]
    assert result.accuracy == np.mean(right)


@pytest.mark.slow
@pytest.mark.usefixtures("last_stage_only")
@pytest.mark.parametrize("head", ["gap", "stages"])
def test_the_last_stage_alone_is_tuned_from_outputs_that_are_computed_once(
    drawn: Path, trunk: Path, tmp_path: Path, head: str
) -> None:
    out = tmp_path / "model"
    tune(drawn, trunk, out, epochs=2, head=head)
    metrics = json_in(out, "metrics")
    assert metrics["accuracy"] == max(metrics["accuracy_probe"], metrics["accuracy_finetune"])
    learned = len(json_in(out, "split")["train"])
    seen = events_in(out, "features")[-1]
    assert seen["done"] == seen["total"] == 240 + learned  # all, and mirror images to learn from
    tune(drawn, trunk, tmp_path / "no mirror", epochs=1, head=head, mirror=False)
    assert events_in(tmp_path / "no mirror", "features")[-1]["total"] == 240


@pytest.mark.slow
@pytest.mark.usefixtures("last_stage_only")
def test_fully_connected_layers_stay_while_the_last_stage_learns(
    drawn: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = VGG(11, 4, width=0.06, head="fc")
    model(torch.randn(16, 3, 32, 32))
    model.config = replace(model.config, pretrained_cfg=Preprocessing(input_size=(3, 32, 32)))
    given = save_checkpoint(model.eval(), tmp_path / "fc")
    tune(drawn, given, tmp_path / "out", epochs=2, head="fc")
    assert json_in(tmp_path / "out", "metrics")["epochs_of_finetune"] == 2
    tuned = load_model(tmp_path / "out")
    assert tuned.config.head == "fc"
    assert torch.allclose(tuned.classifier[0].weight, model.classifier[0].weight, atol=1e-3)


@pytest.mark.slow
def test_the_starter_can_be_tuned_too(drawn: Path, tmp_path: Path) -> None:
    result = tune(drawn, STARTER, tmp_path / "model", epochs=1)
    assert result.accuracy >= json_in(tmp_path / "model", "metrics")["accuracy_probe"]
    assert load_model(tmp_path / "model").config.width == 0.25


@pytest.mark.slow
def test_the_probe_is_kept_where_tuning_made_it_worse(
    drawn: Path, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "RECIPE", replace(finetune.RECIPE, lr=3.0))
    result = tune(drawn, trunk, tmp_path / "tuned", epochs=1)
    probe = tune(drawn, trunk, tmp_path / "probe", mode="probe")
    assert result.mode == json_in(tmp_path / "tuned", "metrics")["kept"] == "probe"
    assert result.accuracy == probe.accuracy
    assert same_weights(tmp_path / "tuned", tmp_path / "probe")


def test_the_probe_is_kept_where_the_loss_diverges(
    drawn: Path, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "RECIPE", replace(finetune.RECIPE, lr=1e30))
    result = tune(drawn, trunk, tmp_path / "model", epochs=2)
    assert result.mode == "probe"
    assert result.accuracy == json_in(tmp_path / "model", "metrics")["accuracy_probe"]
    told = [event["message"] for event in events_in(tmp_path / "model", "warning")]
    assert any("learning rate" in sentence for sentence in told)
    assert any("failed" in sentence for sentence in told)


def test_the_probe_is_kept_whatever_goes_wrong_while_the_trunk_is_tuned(
    drawn: Path, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object, **__: object) -> None:
        raise NotImplementedError("an operator that this device does not have")

    monkeypatch.setattr(cached_maps, "zoom", lacking)
    result = tune(drawn, trunk, tmp_path / "model", epochs=1)
    assert result.mode == "probe"
    assert load_model(tmp_path / "model").config.trained
    told = [event["message"] for event in events_in(tmp_path / "model", "warning")]
    assert told == ["tuning the trunk failed (NotImplementedError): it stays as it was"]


# Stopped, killed, repeated


def test_a_stop_keeps_the_better_of_probe_and_the_best_epoch_so_far(
    drawn: Path, trunk: Path, tmp_path: Path
) -> None:
    out, epochs = tmp_path / "model", []

    def on_event(event: dict[str, Any]) -> None:
        epochs.extend([event] * (event["kind"] == "epoch"))

    result = tune(
        drawn, trunk, out, epochs=50, on_event=on_event, should_stop=lambda: len(epochs) >= 2
    )
    assert result.stopped
    assert len(epochs) == 2
    metrics = json_in(out, "metrics")
    assert result.accuracy == max(metrics["accuracy_probe"], metrics["accuracy_finetune"])
    assert load_model(out).config.trained


def test_a_stop_before_the_stages_learned_leaves_the_probe(
    drawn: Path, trunk: Path, tmp_path: Path
) -> None:
    seen: list[str] = []
    result = tune(
        drawn, trunk, tmp_path / "model", epochs=50, should_stop=lambda: "split" in seen,
        on_event=lambda event: seen.append(event["kind"]),
    )  # fmt: skip
    assert result.stopped
    assert result.mode == "probe"
    assert "stopped before the trunk was tuned" in result.notes[-1]
    assert load_model(tmp_path / "model").config.trained


class Killed(BaseException):
    pass


def killed_after(number: int) -> Callable[[dict[str, Any]], None]:
    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "epoch" and event["number"] == number:
            raise Killed

    return on_event


@pytest.mark.slow
@pytest.mark.parametrize("light", [True, False])
def test_a_killed_training_goes_on_to_the_same_weights_bit_for_bit(
    drawn: Path, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, light: bool
) -> None:
    monkeypatch.setattr(finetune_plan, "LIGHT_MACS", finetune_plan.LIGHT_MACS * light)
    monkeypatch.setattr(finetune.Run, "save_state", _always_saving(finetune.Run.save_state))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    first = tune(drawn, trunk, whole, epochs=3)
    with pytest.raises(Killed):
        tune(drawn, trunk, broken, epochs=3, on_event=killed_after(2))
    second = tune(drawn, trunk, broken, epochs=3, resume=True)
    assert events_in(broken, "resume")[0]["epoch"] == 2
    assert [event["number"] for event in events_in(broken, "epoch")] == [1, 2, 3]
    assert second.notes == first.notes
    before, after = events_in(whole, "epoch"), events_in(broken, "epoch")
    for name in ("loss", "accuracy", "held_out_loss", "held_out"):
        assert [event[name] for event in before] == [event[name] for event in after]
    assert (
        json_in(whole, "metrics")["accuracy_finetune"]
        == json_in(broken, "metrics")["accuracy_finetune"]
    )
    assert same_weights(whole, broken)
    assert not (broken / "state.pt").exists()


def _always_saving(save: Callable[..., None]) -> Callable[..., None]:
    """Save at every epoch, however long the last saving took."""

    def save_state(run: Any, state: Any) -> None:
        run._saving_took = 0.0
        save(run, state)

    return save_state


@pytest.mark.slow
def test_other_pictures_are_not_mistaken_for_those_before_the_break(
    trunk: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "shapes", tmp_path / "model"
    draw_folder(folder, count=6, size=32)
    with pytest.raises(Killed):
        tune(folder, trunk, out, epochs=2, on_event=killed_after(1))
    next((folder / "star").iterdir()).unlink()
    tune(folder, trunk, out, epochs=2, resume=True)
    assert "pictures have changed" in events_in(out, "warning")[0]["message"]
    assert [event["number"] for event in events_in(out, "epoch")] == [1, 1, 2]


@pytest.mark.slow
def test_the_lock_is_free_between_batches(drawn: Path, trunk: Path, tmp_path: Path) -> None:
    held: list[bool] = []

    class Lock:
        def __enter__(self) -> None:
            held.append(True)

        def __exit__(self, *_: object) -> None:
            held.append(False)

    tune(drawn, trunk, tmp_path / "model", epochs=1, lock=Lock())
    assert held[::2] == [True] * (len(held) // 2)
    assert held[1::2] == [False] * (len(held) // 2)
    assert len(held) // 2 >= 240 / 4 + 190 / 16


# What there is time for


@pytest.mark.slow
def test_a_training_ends_about_when_its_time_is_over(
    drawn: Path, trunk: Path, tmp_path: Path
) -> None:
    result = tune(drawn, trunk, tmp_path / "model", budget_s=8)
    plan = next(note for note in result.notes if "enough to tune" in note)
    assert result.seconds < 1.3 * 8
    assert result.seconds > 0.7 * 8 or "more would change little" in plan


@pytest.mark.slow
@pytest.mark.usefixtures("last_stage_only")
def test_with_a_budget_the_cache_is_filled_while_the_features_are_computed(
    drawn: Path, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune_plan, "CACHED", replace(finetune_plan.CACHED, most=2))
    tune(drawn, trunk, tmp_path / "model", budget_s=60, augment=False)
    totals = [event["total"] for event in events_in(tmp_path / "model", "features")]
    assert set(totals) == {240}
    assert json_in(tmp_path / "model", "metrics")["trunk_runs"] == 240
    assert json_in(tmp_path / "model", "metrics")["epochs_of_finetune"] == 2


@pytest.mark.slow
def test_auto_tunes_where_there_are_pictures_and_time_and_says_so(
    drawn: Path, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoomed = replace(finetune_plan.ZOOMED, least=1, most=2)
    monkeypatch.setattr(finetune_plan, "ZOOMED", zoomed)
    result = tune(drawn, trunk, tmp_path / "model", mode="auto", budget_s=60)
    metrics = json_in(tmp_path / "model", "metrics")
    assert result.accuracy == max(metrics["accuracy_probe"], metrics["accuracy_finetune"])
    assert any("24 pictures a class" in note and "enough to tune" in note for note in result.notes)


def test_auto_leaves_the_trunk_alone_where_pictures_are_few(trunk: Path, tmp_path: Path) -> None:
    draw_folder(tmp_path / "shapes", count=10, size=32)
    result = tune(tmp_path / "shapes", trunk, tmp_path / "model", mode="auto", budget_s=60)
    assert result.mode == "probe"
    assert "8 pictures a class are too few" in result.notes[-1]
    assert not events_in(tmp_path / "model", "epoch")


@pytest.mark.usefixtures("last_stage_only")
def test_auto_leaves_the_trunk_alone_where_time_is_short(
    drawn: Path, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune_plan, "CACHED", replace(finetune_plan.CACHED, least=10**6))
    result = tune(drawn, trunk, tmp_path / "model", mode="auto", budget_s=20)
    assert result.mode == "probe"
    assert "a longer budget would do better" in result.notes[-1]


def test_outputs_of_very_many_pictures_are_not_kept() -> None:
    assert finetune_plan.fits(100_352 + 768, 5_000)  # VGG-16 at 224 pixels
    assert not finetune_plan.fits(100_352 + 768, 50_000)


def test_finetune_needs_a_pretrained_network(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pretrained weights of width"):
        train(drawn, mode="finetune", width=0.5, out=tmp_path / "model")
