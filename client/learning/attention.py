"""What a model looks at: Grad-CAM over the beat, by stage, and its share on P, QRS and ST-T.

Source: Selvaraju 2017, "Grad-CAM"; Chiu 2022, Figure 4. Deviations from the figure: earlier stages too,
since the last one has few positions, and numbers beside the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.data.ecg.beats import BEAT_SAMPLES, R_INDEX, RATE_HZ
from client.data.ecg.quality import CYCLE_AFTER_R
from client.learning.dataset import Beats
from client.learning.evaluation import INFERENCE_BATCH
from common.errors import ModelError
from common.model import STAGES, ResNet1d
from common.task import Label

Floats: TypeAlias = npt.NDArray[np.float64]

#: The last stage, as in the paper, and two before it: half and a quarter as wide a cell.
ATTENTION_STAGES: Final = ("stage2", "stage3", "stage4")

# Windows of the waves, milliseconds from the R peak; a window holds its start and not its end. They are
# fixed, but for the ends of the cycle: no wave is delineated in a single beat, and a window that moved with
# what is to be measured would be measured twice.
#: A PR interval of 200 ms, the longest normal one, before a QRS that begins about 40 ms before its R peak.
P_START_MS: Final = -240.0
#: A normal complex begins up to about 50 ms before its R peak; one sample more for the place of the peak.
QRS_START_MS: Final = -56.0
#: With the start above 120 ms, the longest normal complex. A wider one (severe hyperkalemia, bundle branch
#: block) ends inside ST-T, and what is looked at there counts as ST-T.
QRS_END_MS: Final = 64.0
#: The end of the latest T wave: a QT interval of about 530 ms. At faster rates the cycle ends before.
ST_T_END_MS: Final = 480.0


class Wave(StrEnum):
    """A part of the cardiac cycle."""

    P = "P"
    QRS = "QRS"
    ST_T = "ST-T"


@dataclass(frozen=True, eq=False)
class Attention:
    """Where one stage of a model finds evidence for a label, over some beats of that label.

    Attributes
    ----------
    curve : (120,) mean over the beats, largest value 1; all zero where nothing speaks for the label.
    share : by wave, part of all activation that lies on it, 0 to 1; NaN where there is none. What is left
        lies before the P wave or after the end of the cycle, where the neighbours of the beat are.
    even : by wave, what evenly spread activation would give: the part of the 120 samples that it takes.
    cell_ms : width of the stage's positions. What is narrower cannot be told from its surroundings.
    """

    curve: Floats
    share: Mapping[Wave, float]
    even: Mapping[Wave, float]
    cell_ms: float


def attention(
    network: ResNet1d,
    beats: Beats,
    rr_s: Floats,
    label: Label,
    stages: Sequence[str] = ATTENTION_STAGES,
) -> dict[str, Attention]:
    """Return where each stage finds evidence for a label, as a curve and as shares.

    Parameters
    ----------
    network : is put into evaluation mode.
    beats : float32 (n, 120), mV, R peak at index 40; at least one.
    rr_s : (n,) RR interval of each beat, seconds; NaN where it is not known.
    label : positive, or negative: evidence for it is evidence against positive.
    stages : of ``common.model.STAGES``.

    Raises
    ------
    ModelError
        If there is no such stage.
    """
    waves = wave_windows(rr_s)
    even = {wave: float(inside.mean()) for wave, inside in waves.items()}
    found: dict[str, Attention] = {}
    for stage, cells in grad_cam(network, beats, label, stages).items():
        activation = stretch(cells, BEAT_SAMPLES)
        curve: Floats = activation.mean(0)
        largest = curve.max()
        found[stage] = Attention(
            curve=curve / largest if largest > 0 else curve,
            share=wave_shares(activation, waves),
            even=even,
            cell_ms=1000 * BEAT_SAMPLES / RATE_HZ / cells.shape[1],
        )
    return found


def grad_cam(
    network: ResNet1d, beats: Beats, label: Label, stages: Sequence[str] = ATTENTION_STAGES
) -> dict[str, Floats]:
    """Return how much every position of some stages speaks for a label, beat by beat.

    Each channel of a stage's output is weighted by the mean over positions of the gradient of the label's
    logit; of the weighted sum over channels, what speaks for the label is kept. All stages are read from
    one forward and one backward pass, and the network's own gradients are not touched.

    Parameters
    ----------
    network, beats, label, stages : as for ``attention``.

    Returns
    -------
    By stage, in the order of the network: (n, positions), logits, 0 or more. With the small stem the stages
    have 120, 120, 60, 30 and 15 positions, with the paper's 30, 30, 15, 8 and 4.

    Raises
    ------
    ModelError
        If there is no such stage.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        raise ModelError(f"there is no stage {unknown[0] if unknown else ''!r}; allowed: {', '.join(STAGES)}")
    wanted = [stage for stage in STAGES if stage in stages]
    sign = 1.0 if label == Label.POSITIVE else -1.0
    network.eval()
    found: dict[str, list[Tensor]] = {stage: [] for stage in wanted}
    for part in torch.split(torch.from_numpy(beats), INFERENCE_BATCH):
        with torch.no_grad():
            hidden = network.prefix(part, wanted[0])
        outputs = [hidden.requires_grad_()]
        for stage in STAGES[STAGES.index(wanted[0]) + 1 :]:
            hidden = network.get_submodule(stage)(hidden)
            if stage in wanted:
                outputs.append(hidden)
        logits = sign * network.suffix(hidden, STAGES[-1])
        gradients = torch.autograd.grad(logits.sum(), outputs)
        for stage, output, gradient in zip(wanted, outputs, gradients, strict=True):
            evidence = (output.detach() * gradient.mean(1, keepdim=True)).sum(2)
            found[stage].append(torch.relu(evidence))
    return {stage: torch.cat(parts).numpy().astype(np.float64) for stage, parts in found.items()}


def stretch(cells: Floats, samples: int) -> Floats:
    """Interpolate values at the centres of equal cells to every sample; ends are continued flat.

    Parameters
    ----------
    cells : (n, cells) or (cells,)
    samples : wanted.
    """
    count = cells.shape[-1]
    centres = (np.arange(count) + 0.5) * (samples / count) - 0.5
    weights = np.stack([np.interp(np.arange(samples), centres, one) for one in np.eye(count)])
    stretched: Floats = cells @ weights
    return stretched


def wave_windows(rr_s: Floats) -> dict[Wave, npt.NDArray[np.bool_]]:
    """Say which samples of each beat belong to a wave.

    The windows lie inside the cycle of the beat, from 0.4 RR before its R peak to 0.6 RR after it: beyond,
    at fast rates, are the T wave of the beat before and the P wave of the next.

    Parameters
    ----------
    rr_s : (n,) RR interval of each beat, seconds; NaN where it is not known: as long as the windows allow.

    Returns
    -------
    By wave, bool (n, 120). No sample is of two waves.
    """
    rr_ms = 1000 * np.asarray(rr_s, np.float64)[:, None]
    time = (np.arange(BEAT_SAMPLES) - R_INDEX) * (1000 / RATE_HZ)
    start = np.fmax(P_START_MS, (CYCLE_AFTER_R - 1) * rr_ms)
    end = np.fmin(ST_T_END_MS, CYCLE_AFTER_R * rr_ms)
    inside = (time >= start) & (time < end)
    return {
        Wave.P: inside & (time < QRS_START_MS),
        Wave.QRS: inside & (time >= QRS_START_MS) & (time < QRS_END_MS),
        Wave.ST_T: inside & (time >= QRS_END_MS),
    }


def wave_shares(activation: Floats, waves: Mapping[Wave, npt.NDArray[np.bool_]]) -> dict[Wave, float]:
    """Return the part of all activation that lies on each wave; NaN where there is no activation.

    Sums over all beats are divided, not beat by beat: a beat with hardly any evidence hardly counts, as in
    the mean curve.

    Parameters
    ----------
    activation : (n, 120), 0 or more.
    waves : bool (n, 120) by wave.
    """
    total = float(activation.sum())
    return {
        wave: float(activation[inside].sum()) / total if total > 0 else float("nan")
        for wave, inside in waves.items()
    }
