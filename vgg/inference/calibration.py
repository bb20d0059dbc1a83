"""How far probabilities can be believed: temperature and calibration error (Guo et al. 2017)."""

import numpy as np

CALIBRATION_BINS = 15  # as in Guo et al. 2017, section 2
TEMPERATURES = (0.05, 20.0)  # a fit that would go beyond has too few pictures to go by
LEAST_LOG = float(np.log(1e-12))  # a probability near 0 would cost infinitely much


def calibration_error(probs: np.ndarray, targets: np.ndarray) -> float:
    """Expected calibration error, 0 to 1: how far "90 % sure" is from right 90 times in 100.

    Guo et al. 2017, section 2: 15 equal bins of confidence, weighted by their pictures.
    """
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == targets
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.zeros(CALIBRATION_BINS)
    np.add.at(gaps, bins, confidence - right)
    return float(np.abs(gaps).sum() / max(1, len(targets)))


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The number to divide logits (N, K) by so that the probabilities are worth what they say.

    It minimises the log loss (Guo et al. 2017, section 4.2) and never changes an answer. One answer
    more is counted as wrong (as Platt 1999, section 2.2): else a model without a mistake on few
    pictures would claim to be certain.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_temperature: float) -> float:
        logs = log_softmax(logits / np.exp(log_temperature), axis=1).clip(LEAST_LOG)
        right = logs[rows, targets]
        wrong = (logs.sum(axis=1) - right) / max(1, logs.shape[1] - 1)
        return float(-((1 - doubt) * right + doubt * wrong).mean())

    logits, rows = np.asarray(logits, np.float64), np.arange(len(targets))
    doubt = 1 / (len(targets) + 2)
    low, high = TEMPERATURES
    found = minimize_scalar(loss, bounds=(np.log(low), np.log(high)), method="bounded")
    return float(np.exp(found.x))


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(logits / temperature) over (N, K), float32."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers: np.ndarray = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers.astype(np.float32)
