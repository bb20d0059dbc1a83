"""The model card: what a model is, said in the README.md that goes with it.

Only what may be seen by anybody: no path and no file name of this machine.
"""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from vgg.checkpoints.library import accuracy_of
from vgg.network.config import IMAGENET_NAMES, ModelConfig, head_of
from vgg.network.heads import HIDDEN, POOLED
from vgg.network.summary import count_parameters, describe_count

LISTED_CLASSES = 30  # that stand in the table; the others are in config.json
LICENSES = dict.fromkeys(IMAGENET_NAMES, "bsd-3-clause") | {"starter": "mit"}  # of the trunks
# Fields of metrics.json and of its evaluation that name neither folders nor files.
_OPEN_FIELDS = (
    "mode", "classes", "images", "held_out", "accuracy", "accuracy_interval", "seconds", "epochs",
    "stopped", "architecture", "head", "width", "image_size", "temperature", "temperature_from",
)  # fmt: skip
_OPEN_FIGURES = (
    "accuracy", "accuracy_interval", "top5", "balanced_accuracy", "calibration_error", "images",
    "per_class", "confusion", "classes",
)  # fmt: skip
_MODES = {
    "probe": "a new last layer on the frozen trunk of {base}",
    "finetune": "a new last layer on the trunk of {base}, then its last stages",
    "scratch": "all layers, from random weights",
}


def model_card(
    config: ModelConfig,
    *,
    metrics: Mapping[str, Any] | None = None,
    repo_id: str | None = None,
    onnx: bool = False,
) -> str:
    """The card as Markdown, with the front matter that the Hub reads.

    `metrics` is the content of a training's metrics.json. `repo_id`, `owner/name`, is where the
    model will lie on the Hub. `onnx` says that model.onnx and predict.py lie beside it.
    """
    metrics = metrics or {}
    title = repo_id.rpartition("/")[2] if repo_id else _kind(config)
    return "\n\n".join(
        part
        for part in (
            _front_matter(config, metrics, repo_id),
            f"# {title}",
            _what(config),
            _classes(config, metrics),
            _training(config, metrics),
            _accuracy(config, metrics),
            _preprocessing(config),
            _loading(config, repo_id, onnx=onnx),
            _license(metrics),
        )
        if part
    ) + "\n"  # fmt: skip


def fits_timm(config: ModelConfig) -> bool:
    """True where timm's and transformers' own VGG are the same network: the paper's, full width."""
    return (
        config.architecture in IMAGENET_NAMES
        and head_of(config).is_papers
        and (config.width, config.hidden, config.pool) == (1, HIDDEN, POOLED)
        and config.num_classes > 0
    )


def open_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What of a metrics.json may leave the machine: figures, without paths and file names."""
    found = {name: metrics[name] for name in _OPEN_FIELDS if name in metrics}
    if base := _base(metrics):
        found["trained_from"] = base
    if isinstance(figures := metrics.get("evaluation"), dict):
        found["evaluation"] = {name: figures[name] for name in _OPEN_FIGURES if name in figures}
    return found


def _front_matter(config: ModelConfig, metrics: Mapping[str, Any], repo_id: str | None) -> str:
    library = "timm" if repo_id and fits_timm(config) else "vgg-studio"
    tags = ["image-classification", "vgg", "vgg-studio", config.architecture]
    lines = [
        f"license: {LICENSES.get(_base(metrics), 'unknown')}",
        f"library_name: {library}",
        "pipeline_tag: image-classification",
        "tags:",
        *[f"- {tag}" for tag in tags],
    ]
    if accuracy_of(config, metrics):
        lines += ["metrics:", "- accuracy"]
    return "\n".join(["---", *lines, "---"])


def _kind(config: ModelConfig) -> str:
    return f"VGG-{config.depth}{' with batch norm' if config.batch_norm else ''}"


def _what(config: ModelConfig) -> str:
    does = f"names the class of a picture, one of {config.num_classes}"
    if not config.num_classes:
        does = "has no classifier yet and is there to be trained on"
    parts = [
        f"A {_kind(config)} (Simonyan and Zisserman 2014) that {does}. Made with VGG Studio.",
        f"It has {describe_count(count_parameters(config))} weights, width {config.width:g}, "
        f"head `{config.head}` ({head_of(config).label}).",
    ]
    if config.num_classes and not config.trained:
        parts.append("**It has not been trained: its answers are guesses.**")
    return " ".join(parts)


def _classes(config: ModelConfig, metrics: Mapping[str, Any]) -> str:
    if not config.num_classes:
        return ""
    shown = config.label_names[:LISTED_CLASSES]
    more = config.num_classes - len(shown)
    rest = f"\n\nand {more} more, in `config.json`." if more else ""
    figures = metrics.get("evaluation")
    scores = figures.get("per_class") if isinstance(figures, Mapping) else None
    if not isinstance(scores, Mapping) or not scores:
        names = "\n".join(f"- {_plain(name)}" for name in shown)
        return f"## Classes\n\n{names}{rest}"
    rows = "\n".join(_score_row(name, scores.get(name)) for name in shown)
    return (
        "## Classes\n\n| class | held-out pictures | found | of its answers right |\n"
        f"| --- | ---: | ---: | ---: |\n{rows}{rest}"
    )


def _score_row(name: str, score: Any) -> str:
    try:
        cells = [str(score["support"]), _percent(score["recall"]), _percent(score["precision"])]
    except (KeyError, TypeError):
        cells = ["0", "–", "–"]
    return f"| {_plain(name)} | {' | '.join(cells)} |"


def _training(config: ModelConfig, metrics: Mapping[str, Any]) -> str:
    known = config.extra.get("training")
    facts = {**(known if isinstance(known, Mapping) else {}), **metrics}
    if not config.trained:
        return ""
    if "mode" not in facts:
        return "## Training\n\nIt was trained elsewhere; on what is not recorded here."
    images, held_out = facts.get("images"), facts.get("held_out")
    base = f"`{base}`" if (base := _base(metrics)) else "another model"
    how = _MODES.get(str(facts["mode"]), str(facts["mode"])).format(base=base)
    lines = [f"- What learned: {how}."]
    if isinstance(images, int) and isinstance(held_out, int):
        lines.insert(
            0,
            f"- Data: {images} pictures in {config.num_classes} classes, a folder of its owner's.\n"
            f"- Split: {held_out} pictures were held out before anything was learned, "
            f"{images - held_out} learned from. Copies of a picture (resized, cropped, brightened) "
            "stay on one side.",
        )
    epochs = facts.get("epochs")
    length = [f"{epochs} epoch{'s' if epochs != 1 else ''}"] if epochs else []
    if isinstance(seconds := facts.get("seconds"), int | float):
        length.append(f"{seconds:.0f} s in all")
    if isinstance(seed := facts.get("seed"), int):
        length.append(f"seed {seed}")
    if length:
        lines.append(f"- Length: {', '.join(length)}.")
    if config.temperature != 1:
        lines.append(
            f"- Calibration: outputs are divided by a temperature of {config.temperature:.3g}, so "
            "that the probabilities are worth what they say (Guo et al. 2017)."
        )
    return "## Training\n\n" + "\n".join(lines)


def _accuracy(config: ModelConfig, metrics: Mapping[str, Any]) -> str:
    found = accuracy_of(config, metrics)
    if found is None or not config.trained:
        return ""
    accuracy, count, (low, high) = found
    text = (
        f"**{_percent(accuracy)} of {count} held-out pictures are named right** "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %, Wilson 1927). "
        "On pictures of another kind it may be far less."
    )
    return f"## Accuracy\n\n{text}"


def _preprocessing(config: ModelConfig) -> str:
    cfg = config.pretrained_cfg
    side = f"{cfg.size} x {cfg.size} pixels"
    how = {
        "center": f"the middle square, {100 * cfg.crop_pct:g} % of the shorter side",
        "squash": f"squashed to a square, {100 * cfg.crop_pct:g} % of it seen",
        "border": "the whole picture, the rest filled with the mean colour",
    }[cfg.crop_mode]
    return (
        f"## Preprocessing\n\nRGB, {side}: {how}; {cfg.interpolation}; "
        f"mean {list(cfg.mean)}, std {list(cfg.std)}."
    )


def _loading(config: ModelConfig, repo_id: str | None, *, onnx: bool) -> str:
    spec = f"hf-hub:{repo_id}" if repo_id else "path/to/this/folder"
    parts = [
        "## Use it",
        "With VGG Studio:",
        _code(
            "from vgg import Predictor, load_model, read_image\n\n"
            f"predictor = Predictor(load_model({json.dumps(spec)}))\n"
            'print(predictor.predict([read_image("photo.jpg")], top_k=3)[0].to_json())'
        ),
    ]
    if repo_id and fits_timm(config):
        parts += [
            "With timm or transformers:",
            _code(
                "import timm\nfrom transformers import pipeline\n\n"
                f'model = timm.create_model("hf-hub:{repo_id}", pretrained=True).eval()\n'
                f'answer = pipeline("image-classification", model="{repo_id}")'
            ),
        ]
    elif repo_id and head_of(config).is_papers and config.num_classes:
        parts.append("timm can't load it: its VGG knows the paper's depths and full width only.")
    if repo_id and fits_timm(config) and config.pretrained_cfg.size >= 8 * 32:
        parts.append(
            f"At {config.pretrained_cfg.size} pixels timm slides the first fully connected layer "
            "over the maps, where VGG Studio pools them to 7 x 7: answers differ a little."
        )
    if repo_id and fits_timm(config) and config.flip:
        parts.append(
            "VGG Studio asks this network about the mirror image, too, and timm does not: "
            "probabilities differ a little."
        )
    if onnx:
        parts += [
            "Without VGG Studio: `model.onnx` takes a raw picture, uint8 RGB (height, width, 3) of "
            "any size, and gives the probabilities; `pip install onnxruntime numpy pillow`, then "
            "`python predict.py photo.jpg`.",
        ]
    return "\n\n".join(parts)


def _license(metrics: Mapping[str, Any]) -> str:
    base = _base(metrics)
    if base in LICENSES:
        return (
            f"## Licence\n\nThe trunk's weights are those of `{base}` ({LICENSES[base]}); the "
            "pictures it learned from may set terms of their own."
        )
    return (
        "## Licence\n\nNot stated: its owner chooses one and writes it at the top of this "
        "file, as `license`."
    )


def _base(metrics: Mapping[str, Any]) -> str:
    """The model that a training started from, by its name alone; empty where it is not known."""
    options = metrics.get("options")
    spec = options.get("model") if isinstance(options, Mapping) else metrics.get("trained_from")
    if not isinstance(spec, str) or metrics.get("mode") == "scratch":
        return ""
    if spec.startswith("hf-hub:"):
        return spec
    return PureWindowsPath(PurePosixPath(spec).name).name


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _plain(name: str) -> str:
    """A class name as text in Markdown: no markup of its own, on one line."""
    name = " ".join(name.split())
    for letter in "\\`*_[]<>|#":
        name = name.replace(letter, f"\\{letter}")
    return name.replace("&", "&amp;")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
