"""Predictions are the softmax of the model's logits, whatever makes them fast."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from networks import NAMES, SIZES, pictures, predictor, random_values, small, table
from PIL import Image
from torch import Tensor, nn

from vgg.data.images import ImageError
from vgg.data.transforms import normalise
from vgg.device import device_name
from vgg.inference.predictor import Predictor, check_top_k
from vgg.network.config import HEADS
from vgg.network.vgg import VGG


def test_probabilities_are_the_softmax_of_torchvisions_own_network_on_its_own_preset() -> None:
    with torch.device("meta"):
        reference = torchvision.models.vgg11_bn(num_classes=10).eval()
        model = VGG(11, 10, init_weights=False).eval()
    state = random_values(reference.state_dict())
    state["classifier.6.weight"] *= 0.1  # so that no class takes all
    reference.load_state_dict(state, assign=True)
    model.load_state_dict(state, assign=True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    x = torchvision.models.VGG11_BN_Weights.IMAGENET1K_V1.transforms()(image)[None]
    with torch.inference_mode():
        expected = torch.softmax(reference(x)[0], 0)
    assert expected.max() < 0.9
    answer = predictor(model).predict(image, top_k=10)[0]
    best = expected.argsort(descending=True).tolist()
    assert list(answer.indices) == best
    assert answer.class_names == tuple(f"class {index}" for index in best)
    assert answer.probs == pytest.approx(expected[best].tolist(), abs=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_mixed_sizes_gives_what_each_picture_gives_alone(head: str) -> None:
    model, images = small(head), pictures()
    together = table(predictor(model).predict(images))
    one_by_one = table([predictor(model).predict(image)[0] for image in images])
    in_twos = table(predictor(model, batch_size=2).predict(images))
    assert together.std(0).max() > 1e-3  # the pictures do differ
    torch.testing.assert_close(one_by_one, together, atol=1e-5, rtol=0)
    torch.testing.assert_close(in_twos, together, atol=1e-5, rtol=0)


def test_the_best_class_comes_first_and_all_sum_to_one() -> None:
    for answer in predictor().predict(pictures(), top_k=99):
        assert len(answer.probs) == len(NAMES)  # over the class count means all
        assert list(answer.probs) == sorted(answer.probs, reverse=True)
        assert sum(answer.probs) == pytest.approx(1, abs=1e-6)
        assert [NAMES[index] for index in answer.indices] == list(answer.class_names)
        assert all(type(probability) is float for probability in answer.probs)


def test_top_k_takes_the_first_of_them() -> None:
    ready = predictor()
    everything = ready.predict(pictures(), top_k=5)
    for k in (1, 2, 3):
        for few, all_ in zip(ready.predict(pictures(), top_k=k), everything, strict=True):
            assert few.class_names == all_.class_names[:k]
            assert few.probs == pytest.approx(all_.probs[:k], abs=1e-6)
    assert everything[0].to_json()[0] == {
        "class": everything[0].class_names[0],
        "probability": everything[0].probs[0],
    }


@pytest.mark.parametrize("top_k", [0, -1, 1.0, "3", True, None])
def test_a_top_k_that_is_no_count_is_refused_before_any_work(top_k: Any) -> None:
    with pytest.raises(ValueError, match="top_k must be a whole number from 1 up"):
        predictor().predict([], top_k=top_k)
    with pytest.raises(ValueError, match="top_k"):
        check_top_k(top_k, 5)


def fingerprint(model: VGG) -> tuple[Any, ...]:
    """All that could change in a model: numbers, modes, what learns, its layers and its config."""
    numbers = hashlib.sha256()
    for value in model.state_dict().values():
        numbers.update(value.numpy().tobytes())
        numbers.update(repr(value.stride()).encode())
    modes = [(type(module), module.training) for module in model.modules()]
    learns = [(name, p.requires_grad, p.grad is None) for name, p in model.named_parameters()]
    return numbers.hexdigest(), modes, learns, model.config


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_given_is_never_changed(precision: str, training: bool) -> None:
    model = small().train(training)
    model.features[0].requires_grad_(False)
    before = fingerprint(model)
    answer = predictor(model, precision=precision, flip=True).predict(pictures())
    assert fingerprint(model) == before
    again = predictor(model.eval(), precision=precision, flip=True).predict(pictures())
    assert table(answer).equal(table(again))  # it predicts in eval mode all the same


def test_a_model_that_goes_on_learning_does_not_change_its_predictor() -> None:
    model = small()
    ready = predictor(model)
    before = ready.predict(pictures())
    for parameter in model.parameters():
        parameter.data.zero_()
    assert ready.predict(pictures()) == before


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_fewer_bits_hardly_change_a_probability(head: str, precision: str) -> None:
    model = small(head)
    exact = table(predictor(model).predict(pictures()))
    rough = table(predictor(model, precision=precision).predict(pictures()))
    assert not rough.equal(exact)
    torch.testing.assert_close(rough, exact, atol=0.01, rtol=0)
    assert rough.sum(1).allclose(torch.ones(len(SIZES)))


def test_prediction_runs_without_batch_norm_and_channels_last() -> None:
    ready = predictor()
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in ready.model.modules())
    weights = [m.weight for m in ready.model.modules() if isinstance(m, nn.Conv2d)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_flip_is_the_mean_of_both_logits_and_the_config_can_ask_for_it() -> None:
    model = small()
    pixels = predictor(model).prepare(pictures())
    straight, mirrored = (predictor(model).logits(p) for p in (pixels, pixels.flip(3)))
    assert (straight - mirrored).abs().max() > 1e-3
    assert predictor(model, flip=True).logits(pixels).equal((straight + mirrored) / 2)
    model.config = replace(model.config, extra={"flip": True})
    assert predictor(model).logits(pixels).equal((straight + mirrored) / 2)
    assert predictor(model, flip=False).logits(pixels).equal(straight)


def test_logits_are_the_networks_and_probabilities_their_softmax_at_the_temperature() -> None:
    model, hot = small(), small(temperature=2.5)
    hot.load_state_dict(model.state_dict())
    pixels = predictor(model).prepare(pictures())
    with torch.no_grad():
        expected = model(normalise(pixels, model.config.pretrained_cfg))
    logits = predictor(hot).logits(pixels)
    assert (logits.dtype, logits.device.type) == (torch.float32, "cpu")
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert predictor(hot).probabilities(pixels).equal(torch.softmax(logits / 2.5, dim=1))


def test_fp16_chosen_by_itself_that_overflows_becomes_fp32_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = small()
    layers = [layer for layer in model.features if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    before = 1.0
    with torch.no_grad():  # numbers over 65504 on the way, ordinary ones at both ends
        for place, (conv, norm) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
            conv.bias *= before
            norm.running_mean *= before
            norm.running_var *= before**2
            before *= 40 if place < 4 else 1 / 40
            norm.weight *= before
            norm.bias *= before
    expected = table(predictor(model).predict(pictures()))
    asked = predictor(model, precision="fp16")
    assert not asked.logits(asked.prepare(pictures())).isfinite().all()  # as it was asked to
    monkeypatch.setattr("vgg.inference.predictor.choose_precision", lambda *_: torch.float16)
    ready = predictor(model, precision="auto")
    for _ in range(2):
        torch.testing.assert_close(table(ready.predict(pictures())), expected, atol=0.01, rtol=0)
    assert ready.last_run
    assert ready.last_run.precision == "fp32"
    assert [record.message for record in caplog.records if "fp16" in record.message] == [
        "this network's numbers are too large for fp16: it runs in fp32 now"
    ]


def test_a_trunk_has_nothing_to_predict() -> None:
    with pytest.raises(ValueError, match="train it on a folder first"):
        Predictor(VGG(11, 0, width=0.05))


@pytest.mark.parametrize("options", [{"device": "gpu"}, {"precision": "int4"}, {"batch_size": 0}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Predictor(small(), **options)


def test_one_picture_may_be_a_path_bytes_a_file_or_pixels(tmp_path: Path) -> None:
    image = pictures()[1]
    file = tmp_path / "strip.png"
    image.save(file)
    ready = predictor()
    expected = ready.predict([image])
    for same in (image, file, str(file), file.read_bytes(), io.BytesIO(file.read_bytes())):
        assert ready.predict(same) == expected
    with file.open("rb") as opened:
        assert ready.predict(opened) == expected


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_pixels_in_other_modes_are_taken_as_rgb(mode: str) -> None:
    image, ready = pictures()[0].convert(mode), predictor()
    assert ready.predict(image) == ready.predict(image.convert("RGB"))


def test_a_picture_handed_over_opened_is_seen_as_its_file_is(tmp_path: Path) -> None:
    clear = pictures()[0].convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    deep = Image.fromarray(np.linspace(0, 65535, 64 * 64, dtype=np.uint16).reshape(64, 64))
    ready = predictor()
    for image in (clear, deep):
        image.save(tmp_path / "picture.png")
        assert ready.predict(image) == ready.predict(tmp_path / "picture.png")


def test_no_pictures_give_no_predictions() -> None:
    ready = predictor()
    assert ready.predict([]) == []
    assert list(ready.predict_files([])) == []


def test_an_unreadable_picture_is_an_image_error() -> None:
    with pytest.raises(ImageError):
        predictor().predict([pictures()[0], b"this is no picture"])


def test_files_come_back_in_order_and_bad_ones_with_the_reason(tmp_path: Path) -> None:
    files = []
    for number, image in enumerate(pictures()):
        files.append(tmp_path / f"{number}.png")
        image.save(files[-1])
    (tmp_path / "text.png").write_text("no picture")
    files[2:2] = [tmp_path / "text.png", tmp_path / "gone.png"]
    ready = predictor(batch_size=2)
    answers = list(ready.predict_files(files))
    assert [error is None for _, error in answers] == [f.name[0].isdigit() for f in files]
    assert all(error for _, error in answers[2:4])
    found = [prediction for prediction, _ in answers if prediction]
    torch.testing.assert_close(table(found), table(ready.predict(pictures())), atol=1e-5, rtol=0)


def test_files_come_in_order_where_the_device_is_a_batch_ahead_too(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(7)]
    for file, image in zip(files, pictures(), strict=True):
        image.save(file)
    files[2:2] = [tmp_path / "gone.png", tmp_path / "away.png"]  # a batch without a picture
    ready = predictor(batch_size=2)
    ready._ahead = 1  # as on a GPU
    answers = list(ready.predict_files(files))
    assert [error is None for _, error in answers] == [file.stem.isdigit() for file in files]
    found = [prediction for prediction, _ in answers if prediction]
    torch.testing.assert_close(table(found), table(ready.predict(pictures())), atol=1e-5, rtol=0)


def test_where_memory_is_too_small_for_a_batch_it_is_halved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ready, sizes = predictor(), []
    forward = ready._forward

    def small_memory(pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("no room")
        return forward(pixels)

    expected = table(ready.predict(pictures()))
    monkeypatch.setattr(ready, "_forward", small_memory)
    torch.testing.assert_close(table(ready.predict(pictures())), expected, atol=1e-5, rtol=0)
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    ready.predict(pictures())
    assert sizes[9:] == [1] * 7  # it keeps in mind how many there is room for


def test_the_last_run_tells_what_it_ran_on() -> None:
    ready = predictor(precision="bf16")
    assert ready.last_run is None
    ready.predict(pictures())
    run = ready.last_run
    assert run is not None
    assert (run.device, run.precision, run.image_size) == (device_name(ready.device), "bf16", 64)
    assert 0 < run.milliseconds < 10_000
    assert run.memory > 0
