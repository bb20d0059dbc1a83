"""Fine-tuning: after a new last layer the stages below it learn, too, where that is worth its time.

First the layer, then the trunk from there on, with smaller rates downwards (Kumar et al. 2022,
"Fine-tuning can distort pretrained features…"). On a small machine only the fifth stage learns,
from what the fourth pool gives, which is computed once a picture.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vgg.data import FolderIndex
from vgg.evaluation import fit_temperature, sharpened
from vgg.features import Trunk
from vgg.fitting import EVAL_BATCH, fit, seconds_per_picture
from vgg.model import VGG
from vgg.options import CHANNELS, TRAINED_HEAD, count_macs, scaled
from vgg.pixels import batches, device_room, empty_pixels, in_threads, look
from vgg.probe import train_probe
from vgg.recipe import Epoch, Fitted, Pictures, Recipe
from vgg.runs import Run, Trained, copies_of, round_to_half
from vgg.scratch import EVALUATION_COST, SAFETY
from vgg.tuned import Shelf, Shelved, Tuned, Zoomed, new_optimizer

RECIPE = Recipe(lr=0.003, batch_size=16, weight_decay=0.0, warmup=0.1, cosine=True)
LEAST_A_CLASS = 20  # pictures to learn from: with fewer the last layer alone does as well
