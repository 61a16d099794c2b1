"""Train the teacher and distil the student.

    python demo_app/students/digit_scenes/distil.py [--out FOLDER]

writes ``student.safetensors`` and ``results.json``. Everything is seeded and runs on one thread, about 12 CPU-minutes: the same machine
and torch give the same bytes; another CPU rounds differently and gives the same mean IoU within its interval.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save
from scenes import Scenes, evaluation, training
from scenes_model import CLASSES, LABELS, ScenesStudent, ScenesTeacher, parameter_count
from torch import Tensor, nn
from torch.nn import functional

from edgepack.verify.metrics import PixelCounts, count_pixels
from edgepack.verify.statistics import bootstrap_mean_iou

HERE = Path(__file__).resolve().parent

# Logits (B, 11, 96, 96) of images (B, 3, 96, 96) with masks (B, 96, 96) -> a scalar.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        steps, batch: mini-batches and their size. learning_rate: the peak of a one-cycle schedule (Smith and Topin 2017).
        weight_decay: of AdamW, decoupled. seed: of the initial weights and of the order of the images.
    """

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class Distillation:
    """Hinton et al. 2015, section 2, at every pixel: ``soft_weight * T**2 * KL(teacher || student) + (1 - soft_weight) * cross entropy``.

    ``background`` is what a pixel without a digit weighs in both, beside 1 for a pixel of a digit: 24 of 25 pixels are background.
    """

    temperature: float
    soft_weight: float
    background: float


@dataclass(frozen=True)
class Score:
    """Mean intersection over union on the held-out scenes, with a bootstrap interval over scenes, and of each class."""

    parameters: int
    scenes: int
    mean_iou: float
    low: float
    high: float
    classes: dict[str, float]


TRAINING_SCENES, TRAINING_SEED = 6000, 13
TEACHER = Recipe(steps=800, batch=16, learning_rate=5e-3, weight_decay=1e-2, seed=1)
STUDENT = Recipe(steps=800, batch=16, learning_rate=5e-3, weight_decay=1e-2, seed=2)
DISTILLATION = Distillation(temperature=2.0, soft_weight=0.7, background=0.05)


def pixels(images: Tensor) -> Tensor:
    """What the networks see: uint8 (N, 96, 96, 3) -> float32 (N, 3, 96, 96), values 0..1, channels last in memory."""
    return images.permute(0, 3, 1, 2).float() / 255


def hard_loss(weights: Distillation) -> Loss:
    """Cross entropy with the masks."""
    return lambda logits, _images, masks: _weighted(functional.cross_entropy(logits, masks, reduction="none"), masks, weights)


def distillation_loss(teacher: nn.Module, weights: Distillation) -> Loss:
    """The loss of `Distillation`."""
    warm = weights.temperature

    def loss(logits: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        with torch.no_grad():
            soft = functional.log_softmax(teacher(images) / warm, dim=1)
        own = functional.log_softmax(logits / warm, dim=1)
        agreement = functional.kl_div(own, soft, reduction="none", log_target=True).sum(1)
        truth = functional.cross_entropy(logits, masks, reduction="none")
        return _weighted(weights.soft_weight * warm**2 * agreement + (1 - weights.soft_weight) * truth, masks, weights)

    return loss


def train(make: Callable[[], Network], scenes: Scenes, loss: Loss, recipe: Recipe) -> Network:
    """A network trained from the recipe's seed on random scenes, in evaluation mode."""
    torch.manual_seed(recipe.seed)
    images, masks = torch.from_numpy(scenes.images), torch.from_numpy(scenes.masks)
    network = make().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps)
    for step in range(recipe.steps):
        drawn = torch.randint(len(images), (recipe.batch,))
        batch, wanted = pixels(images[drawn]), masks[drawn].long()
        optimizer.zero_grad()
        value = loss(network(batch), batch, wanted)
        value.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"{type(network).__name__} {step}/{recipe.steps} loss {value.item():.4f}", flush=True)
    return network.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def predict(network: nn.Module, images: Tensor) -> Tensor:
    """Logits, float32 (N, 11, 96, 96), 25 images at a time."""
    return torch.cat([network(pixels(batch)) for batch in images.split(25)])


def evaluate(network: nn.Module, scenes: Scenes) -> Score:
    """Mean IoU over the eleven classes."""
    classes = predict(network, torch.from_numpy(scenes.images)).argmax(1).numpy()
    counts = count_pixels(classes, scenes.masks, CLASSES)
    interval = bootstrap_mean_iou(counts)
    each = {name: round(value, 4) for name, value in zip(LABELS, _of_each_class(counts), strict=True)}
    low, high = round(interval.low, 4), round(interval.high, 4)
    return Score(parameter_count(network), len(scenes.masks), round(interval.value, 4), low, high, each)


def write(student: nn.Module, results: dict[str, Score], folder: Path) -> None:
    """Write the distilled student's weights, and the scores with the settings they belong to."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "student.safetensors").write_bytes(save(student.state_dict()))
    settings = {"teacher": asdict(TEACHER), "student": asdict(STUDENT), "distillation": asdict(DISTILLATION)}
    document = {
        "scores": {name: asdict(result) for name, result in results.items()},
        "settings": {**settings, "training_scenes": TRAINING_SCENES, "training_seed": TRAINING_SEED},
    }
    (folder / "results.json").write_text(json.dumps(document, indent=2) + "\n")


def _weighted(losses: Tensor, masks: Tensor, weights: Distillation) -> Tensor:
    """The mean over pixels (B, 96, 96), a pixel of the background counting less."""
    shares = torch.where(masks > 0, 1.0, weights.background)
    return (losses * shares).sum() / shares.sum()


def _of_each_class(counts: PixelCounts) -> list[float]:
    both, union = counts.both.sum(0), counts.union.sum(0)
    return [float(share) for share in both / union]


def main() -> None:
    parser = argparse.ArgumentParser(description="Distil the scenes student again.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of student.safetensors and results.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    scenes, held_out = training(TRAINING_SCENES, TRAINING_SEED), evaluation()
    teacher = train(ScenesTeacher, scenes, hard_loss(DISTILLATION), TEACHER)
    student = train(ScenesStudent, scenes, distillation_loss(teacher, DISTILLATION), STUDENT)
    results = {"teacher": evaluate(teacher, held_out), "distilled": evaluate(student, held_out)}
    write(student, results, arguments.out)
    for name, result in results.items():
        print(f"{name:10} mean IoU {result.mean_iou:.3f} [{result.low:.3f}, {result.high:.3f}], {result.parameters} weights")


if __name__ == "__main__":
    main()
