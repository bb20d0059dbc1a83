"""The files of a model's folder, by name."""

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
STANDARD_FILES = (WEIGHTS_FILE, "pytorch_model.bin")  # the config beside them is theirs
SAFE_SUFFIXES = (".safetensors",)
# Endings of files of weights among others; what a file is tells its content.
WEIGHTS_SUFFIXES = (*SAFE_SUFFIXES, ".pth", ".pt", ".bin", ".ckpt", ".tar", ".t7", ".model")
CARD_FILE = "README.md"
# Where training made the model:
METRICS_FILE = "metrics.json"
EVENTS_FILE = "events.jsonl"  # one JSON object a line
SPLIT_FILE = "split.json"
STATE_FILE = "state.pt"  # only while it trains
COPIES_FOLDER = "held_out"  # small copies of the held-out pictures
FILM_FOLDER = "film"
