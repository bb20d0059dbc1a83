"""A network learns from nothing: which network the time is enough for, and its training."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from vgg import distributed
from vgg.data.files import in_threads
from vgg.data.images import ImageError, probe_size
from vgg.data.reading import device_room
from vgg.data.split import Split, split
from vgg.inference.calibration import apply_temperature, fit_temperature
from vgg.inference.predictor import Predictor
from vgg.network.config import ModelConfig, Preprocessing, architecture_name, classifier_sizes
from vgg.network.vgg import VGG
from vgg.training.dataset import Dataset, Trained, mirrors, read_pixels
from vgg.training.film_recorder import ENDING, FilmRecorder
from vgg.training.loop import train_loop
from vgg.training.options import SCRATCH_HEAD
from vgg.training.recipe import Epoch, Fitted, Pictures, Recipe
from vgg.training.run import Run, copies_of, round_to_half
from vgg.training.throughput import seconds_per_picture

SIZES = (32, 48, 64, 96, 128, 160, 192, 224)  # pixels; five poolings leave 1 to 7 of them
ENLARGED = 48  # smaller pictures are made so large: there is more to see for the first stages
WIDTHS = (1.0, 0.5, 0.25, 0.125)
FEW_CLASSES = 32  # more are not told apart by the 64 numbers that the narrowest network ends in
# In the same time 1 % better than 11 on small photographs of clothes: two layers see the picture
# before it is made smaller. 16 and 19 learn more slowly, and no better in the time people wait.
DEPTH = 13
PLAIN_DEPTH = 11  # a deeper one hardly learns from nothing without batch norm
LARGEST_ON_CPU = 128
SAMPLED = 500  # pictures whose size is looked at
WIDER_COST = 3.4  # how many times longer twice the channels take, measured at 32 and 64 pixels
FEW_READ = 32  # pictures by which the reading of all is judged
COMPARED = 0.001  # seconds a picture that looking for its copies takes
EVALUATION_COST = 1 / 3  # of a picture measured against one learned from: one pass, not three
SAFETY = 0.95  # share of the time left that is planned with
WIDER_FROM = (20_000, 25)  # pictures learned from, and epochs, from which on a wider network pays
SMALLER_BELOW = (4_000, 10)  # the same, below which smaller pictures are better
TINY, FEW = 300, 6000  # pictures to learn from: fewer are learned from in smaller batches


def train_scratch(run: Run, dataset: Dataset, like: ModelConfig | None = None) -> Trained:
    """Train a new network on these pictures, of the architecture of `like` where given."""
    key = dataset.key
    saved = run.read_state()
    if saved and saved["key"] != key:
        run.say("warning", "the pictures have changed since: the training starts anew")
        saved = None
    if saved:
        config = ModelConfig.from_json(json.loads(saved["config"]))
        run.event("resume", epoch=saved["fit"]["epoch"])
    else:
        config = choose_network(run, dataset, like)
        cfg = replace(config.pretrained_cfg, white=dataset.index.white)
        config = replace(config, pretrained_cfg=cfg)
    began = time.monotonic()
    everything = dataset
    dataset, pixels, prints = distributed.all_or_none(
        lambda: read_pixels(run, everything, config.pretrained_cfg)
    )
    reading = (time.monotonic() - began) / len(dataset)
    parts = split(dataset.index, prints, seed=run.options.seed)
    run.tell_split(parts)
    names = dataset.class_names
    config = replace(config, num_classes=len(names), label_names=names, trained=True)
    network = new_network(config, run.options.seed)
    network = network.to(run.device).to(memory_format=torch.channels_last)
    mirror = run.options.augment and mirrors(run, dataset, parts.train, prints)
    run.notes = list(dict.fromkeys(run.notes))  # what was said before a break is not said twice
    train, held_out = _parts(run, dataset, parts, pixels, mirror=mirror)
    recipe = recipe_for(config, len(train), augment=run.options.augment)
    reserve = copies_of(len(held_out)) * reading
    counted, deadline = _plan(run, network, recipe, train, held_out, reserve, planned=bool(saved))
    samples_planned = distributed.run_on_rank_0(lambda: counted)
    content = {"key": key, "config": json.dumps(config.to_json())}
    recorder = FilmRecorder(
        run, dataset, parts, config, after=saved["fit"]["epoch"] if saved else 0
    )

    def on_epoch(epoch: Epoch, state: Any) -> None:
        recorder.record(epoch, state)  # first: after a break no frame is missing
        run.save_state(lambda: {**content, "fit": state()})
        run.event("epoch", **asdict(epoch))

    fitted = train_loop(
        network,
        train,
        held_out,
        samples_planned,
        recipe,
        seed=run.options.seed,
        dtype=run.dtype,
        deadline=deadline,
        resume=saved["fit"] if saved else None,
        on_epoch=on_epoch,
        on_warning=lambda sentence: run.say("warning", sentence),
        should_stop=run.should_stop,
        lock=run.lock,
    )
    return _finished(run, network, dataset, parts, held_out, fitted, mirror=mirror)


def choose_network(run: Run, dataset: Dataset, like: ModelConfig | None) -> ModelConfig:
    """The network and image size that suit the pictures and the time; says so in one sentence.

    What was chosen by hand stays. With epochs instead of a budget the choice does not depend on
    the machine's speed, so that the same seed gives the same weights.
    """
    options = run.options
    depth = options.depth or (like.depth if like else DEPTH)
    norm = options.batch_norm
    if norm is None:
        norm = like.batch_norm if like else True
    config = ModelConfig(
        architecture=architecture_name(depth, norm),
        num_classes=len(dataset.class_names),
        head=options.head or SCRATCH_HEAD,
        width=options.width or (like.width if like else narrowest(len(dataset.class_names))),
        pretrained_cfg=preprocessing_of(options.image_size or suitable_size(run, dataset)),
    )
    free_width = options.width is None and like is None
    if run.seconds is None:
        if free_width and run.device.type != "cpu":
            config = replace(config, width=WIDTHS[0])
    else:
        train = round(0.8 * len(dataset))
        effort = train + EVALUATION_COST * (len(dataset) - train)
        cfg = config.pretrained_cfg
        reading = distributed.run_on_rank_0(lambda: _reading_seconds(dataset, cfg))
        time_left = distributed.run_on_rank_0(lambda: SAFETY * max(0.0, run.left - reading))

        def epochs_of(config: ModelConfig) -> float:
            network = new_network(config, 0).to(run.device).to(memory_format=torch.channels_last)
            recipe = recipe_for(config, train)
            each = seconds_per_picture(network, recipe, run.dtype, lock=run.lock)
            return time_left / (effort * each)

        free_size = options.image_size is None
        config = affordable(config, train, epochs_of, free_size=free_size, free_width=free_width)
    size = config.pretrained_cfg.size
    run.say(
        "plan",
        f"from scratch: {config.architecture} at width {config.width:g}, "
        f"pictures of {size} x {size} pixels",
        architecture=config.architecture,
        width=config.width,
        head=config.head,
        image_size=size,
    )
    if not norm and depth > PLAIN_DEPTH:
        run.say(
            "warning",
            f"{config.architecture} without batch norm hardly learns from nothing in a short time: "
            f"take {architecture_name(depth, True)}",
        )
    return config


def _reading_seconds(dataset: Dataset, cfg: Preprocessing) -> float:
    """About how long it takes to read all pictures and to find copies, by a few of them."""
    few = dataset.samples[:: max(1, len(dataset) // FEW_READ)]
    began = time.monotonic()
    for _ in in_threads(lambda sample: dataset.load(sample, cfg, with_fingerprint=True), few):
        pass
    return len(dataset) * ((time.monotonic() - began) / len(few) + COMPARED)


def narrowest(classes: int) -> float:
    """The width to begin with for so many classes."""
    return WIDTHS[-1] if classes <= FEW_CLASSES else WIDTHS[-2]


def affordable(
    config: ModelConfig,
    count: int,
    epochs_of: Callable[[ModelConfig], float],
    *,
    free_size: bool,
    free_width: bool,
) -> ModelConfig:
    """The widest network that the time trains well on `count` pictures; smaller pictures where
    even this one takes too long. `epochs_of` tells how many epochs the time is enough for."""
    epochs = epochs_of(config)
    smaller = [size for size in SIZES if size < config.pretrained_cfg.size]
    while free_size and smaller and epochs < _epochs(SMALLER_BELOW, count):
        config = replace(config, pretrained_cfg=preprocessing_of(smaller.pop()))
        epochs = epochs_of(config)
    wider = [width for width in reversed(WIDTHS) if width > config.width]
    while free_width and wider and epochs / WIDER_COST >= _epochs(WIDER_FROM, count):
        config = replace(config, width=wider.pop(0))
        epochs = epochs_of(config)
    return config


def _epochs(threshold: tuple[int, int], count: int) -> float:
    pictures, epochs = threshold
    return pictures / count + epochs


def suitable_size(run: Run, dataset: Dataset) -> int:
    """The image size that loses little of the pictures: their median shorter side, rounded down;
    tiny ones are enlarged."""
    step = max(1, len(dataset) // SAMPLED)
    sides = []
    for sample in dataset.samples[::step]:
        try:
            sides.append(min(probe_size(dataset.contents.read(sample.path, sample.digest))))
        except ImageError:
            continue
    median = statistics.median(sides) if sides else ENLARGED
    most = LARGEST_ON_CPU if run.device.type == "cpu" else SIZES[-1]
    return max(size for size in SIZES if size <= min(most, max(ENLARGED, median)))


def preprocessing_of(size: int) -> Preprocessing:
    """For a network from scratch: the whole picture, nothing cut off."""
    return Preprocessing(input_size=(3, size, size), crop_mode="border", crop_pct=1.0)


def recipe_for(config: ModelConfig, count: int, *, augment: bool = True) -> Recipe:
    """The learning rate and batch size for this network and so many pictures to learn from."""
    batch_size = 16 if count < TINY else 32 if count < FEW else 64
    lr = 0.025 if count < TINY else 0.1
    if len(classifier_sizes(config)) > 1:
        lr *= 0.2  # several layers in a row without a norm take no more
    if not config.batch_norm:
        lr *= 0.1
    return Recipe(lr=lr, batch_size=batch_size, augment=augment)


def new_network(config: ModelConfig, seed: int) -> VGG:
    """Freshly initialised from a seed, whatever else draws from torch's source of chance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VGG.from_config(config)


def _parts(
    run: Run, dataset: Dataset, parts: Split, pixels: torch.Tensor, *, mirror: bool
) -> tuple[Pictures, Pictures]:
    """The two sides of the split, over one tensor of pixels; on the device where it fits."""
    targets = torch.zeros(len(pixels), dtype=torch.int64)
    rows = torch.from_numpy(dataset.rows)
    targets[rows] = torch.from_numpy(dataset.labels)
    if device_room(run.device, pixels.nbytes):
        pixels = pixels.to(run.device)
    train, held_out = (rows[side] for side in (parts.train, parts.held_out))
    return Pictures(pixels, targets, train, mirror), Pictures(pixels, targets, held_out)


def _plan(
    run: Run,
    network: VGG,
    recipe: Recipe,
    train: Pictures,
    held_out: Pictures,
    reserve: float,
    *,
    planned: bool,
) -> tuple[int, float | None]:
    """From how many pictures to learn, and until when at the latest; says so where it is new."""
    if run.options.epochs:
        return run.options.epochs * len(train), None
    each = seconds_per_picture(network, recipe, run.dtype, lock=run.lock)
    reserve += EVALUATION_COST * each * len(held_out) + (0.02 + ENDING) * (run.seconds or 0)
    left = max(0.0, run.left - reserve)
    epoch = each * (len(train) + EVALUATION_COST * len(held_out))
    epochs = SAFETY * left / epoch
    samples_planned = max(recipe.batch_size, round(epochs * len(train)))
    if not planned:
        if epochs >= 1:
            sentence = f"{epochs:.0f} epochs, by the speed measured: {1 / each:.0f} pictures/s"
        else:
            sentence = (
                f"the time is enough for {samples_planned} of the {len(train)} pictures: "
                "a longer budget would do better"
            )
        run.say("plan", sentence, epochs=epochs, pictures_per_second=1 / each)
    return samples_planned, time.monotonic() + left


def _finished(
    run: Run,
    network: VGG,
    dataset: Dataset,
    parts: Split,
    held_out: Pictures,
    fitted: Fitted,
    *,
    mirror: bool,
) -> Trained:
    """Measure the network as it will be saved, and calibrate it.

    There are no other pictures that it has not seen, so the held-out part sets the temperature.
    That is one number, and changes no answer. A network that learned from mirror images too is
    asked about both: half a percent better, measured on small photographs of clothes. `mirror`
    says whether it did.
    """
    round_to_half(network)
    both: dict[str, Any] = {"flip": True} if mirror else {}
    network.config = replace(network.config, extra=both)
    logits = distributed.run_on_rank_0(lambda: _logits(run, network, held_out))
    targets = dataset.labels[parts.held_out]
    temperature = fit_temperature(logits, targets)
    network.config = replace(network.config, extra={**both, "temperature": temperature})
    return Trained(
        network=network,
        dataset=dataset,
        split=parts,
        probs=apply_temperature(logits, temperature),
        epochs=fitted.epochs,
        stopped=fitted.stopped,
        facts={
            "temperature": temperature,
            "temperature_from": "held_out",
            "kept": "best epoch on the held-out part" if fitted.best_of else "last epoch",
        },
    )


def _logits(run: Run, network: VGG, held_out: Pictures) -> np.ndarray:
    """(N, K) of the held-out pictures."""
    predictor = Predictor(network, str(run.device), run.options.precision)
    chunks = []
    for rows in held_out.rows.split(predictor.batch_size):
        with run.lock:
            chunks.append(predictor.logits(held_out.pixels[rows.to(held_out.pixels.device)]))
    return torch.cat(chunks).numpy()
