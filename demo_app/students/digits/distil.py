"""Train the teacher and three students of one architecture, and keep the distilled one.

    python demo_app/students/digits/distil.py [--out FOLDER]

writes ``student.safetensors`` and ``results.json``. README.md beside this file states the setting: the teacher learnt from 3,800
labels; the student has 400 labels and 3,400 images without. Everything is seeded and runs on one thread: the same machine and
torch give the same bytes; another CPU rounds differently and gives the same accuracy within its interval.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from digits_data import Digits, Split, labelled, load, split
from digits_model import DigitsStudent, DigitsTeacher, parameter_count
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent

# Quantile 0.975 of the normal distribution: two-sided 95 %.
Z_95 = 1.959963984540054

# Logits (B, 10) of views v (B,) of images i (B,) -> a scalar.
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
    """Weights of Hinton et al. 2015, section 2: ``soft_weight * T**2 * KL(teacher || student) + (1 - soft_weight) * cross entropy``.

    The cross entropy is over the labelled images of a batch.
    """

    temperature: float
    soft_weight: float


@dataclass(frozen=True)
class Augmentation:
    """A random affine map for each view of an image, uniform on both sides of the identity.

    Attributes:
        views: maps drawn for each image. degrees: rotation. shift: in pixels. zoom: relative size.
    """

    views: int
    degrees: float
    shift: float
    zoom: float
    seed: int


@dataclass(frozen=True)
class Score:
    """Right answers on the held-out digits with Wilson's 95 % interval (Wilson 1927)."""

    parameters: int
    labels: int
    correct: int
    total: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Networks:
    """What one experiment trains. ``plain`` and ``distilled`` saw 400 labels, ``teacher`` and ``plain_all_labels`` 3,800."""

    teacher: DigitsTeacher
    plain: DigitsStudent
    plain_all_labels: DigitsStudent
    distilled: DigitsStudent


TEACHER = Recipe(steps=350, batch=64, learning_rate=4e-3, weight_decay=1e-2, seed=1)
STUDENT = Recipe(steps=800, batch=64, learning_rate=1e-2, weight_decay=1e-3, seed=2)
DISTILLATION = Distillation(temperature=4.0, soft_weight=0.9)
AUGMENTATION = Augmentation(views=8, degrees=12.0, shift=2.0, zoom=0.12, seed=3)


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Wilson's score interval at 95 % for ``correct`` of ``total`` (above 0)."""
    share, z2 = correct / total, Z_95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z_95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return centre - half, centre + half


def pixels(digits: Digits) -> Tensor:
    """What the networks see: float32 (N, 1, 28, 28), values 0..1."""
    return torch.from_numpy(digits.images).unsqueeze(1).float() / 255


def augment(images: Tensor, ranges: Augmentation) -> Tensor:
    """Random rotations, shifts and zooms, bilinear, black outside: (N, 1, 28, 28) -> (views, N, 1, 28, 28)."""
    generator = torch.Generator().manual_seed(ranges.seed)
    return torch.stack([_affine(images, ranges, generator) for _ in range(ranges.views)])


def hard_loss(labels: Tensor) -> Loss:
    """Cross entropy with ``labels``, int64 (N,)."""
    return lambda logits, _view, image: functional.cross_entropy(logits, labels[image])


def distillation_loss(soft: Tensor, labels: Tensor, weights: Distillation) -> Loss:
    """The loss of `Distillation`.

    Args:
        soft: the teacher's logits, float32 (views, N, 10).
        labels: int64 (L,), of the first L of the N images; the others have none.
        weights: temperature and balance.
    """
    warm = weights.temperature

    def loss(logits: Tensor, view: Tensor, image: Tensor) -> Tensor:
        teacher, student = (functional.log_softmax(x / warm, dim=1) for x in (soft[view, image], logits))
        agreement = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        known = image < len(labels)
        truth = functional.cross_entropy(logits[known], labels[image[known]], reduction="sum") / known.sum().clamp(min=1)
        return weights.soft_weight * warm**2 * agreement + (1 - weights.soft_weight) * truth

    return loss


def train(make: Callable[[], Network], views: Tensor, loss: Loss, recipe: Recipe) -> Network:
    """A network trained from the recipe's seed on random views of random images, in evaluation mode.

    Args:
        make: builds the network.
        views: float32 (views, N, 1, 28, 28).
        loss: gets the logits and which views of which images they belong to.
        recipe: steps, rates and seed.
    """
    torch.manual_seed(recipe.seed)
    network = make().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps)
    for _ in range(recipe.steps):
        view, image = _draw(views, recipe.batch)
        optimizer.zero_grad()
        loss(network(views[view, image].contiguous(memory_format=torch.channels_last)), view, image).backward()
        optimizer.step()
        schedule.step()
    return network.to(memory_format=torch.contiguous_format).eval()


def experiment(training: Digits) -> Networks:
    """Train the teacher, then the three students from the same initial weights for the same number of steps."""
    views, few = augment(pixels(training), AUGMENTATION), labelled(training)
    labels, few_labels = torch.from_numpy(training.labels), torch.from_numpy(few.labels)
    teacher = train(DigitsTeacher, views, hard_loss(labels), TEACHER)
    soft = torch.stack([predict(teacher, view) for view in views])
    return Networks(
        teacher=teacher,
        plain=train(DigitsStudent, views[:, : len(few_labels)], hard_loss(few_labels), STUDENT),
        plain_all_labels=train(DigitsStudent, views, hard_loss(labels), STUDENT),
        distilled=train(DigitsStudent, views, distillation_loss(soft, few_labels, DISTILLATION), STUDENT),
    )


@torch.no_grad()
def predict(network: nn.Module, images: Tensor) -> Tensor:
    """Logits, float32 (N, 10), 100 images at a time."""
    return torch.cat([network(batch) for batch in images.split(100)])


def evaluate(network: nn.Module, digits: Digits, labels: int) -> Score:
    """Count the right answers; ``labels`` is how many the network learnt from."""
    correct = int((predict(network, pixels(digits)).argmax(1).numpy() == digits.labels).sum())
    total = len(digits.labels)
    low, high = wilson(correct, total)
    return Score(parameter_count(network), labels, correct, total, correct / total, round(low, 4), round(high, 4))


def scores(networks: Networks, parts: Split) -> dict[str, Score]:
    """Each network on the held-out digits."""
    every, few = len(parts.training.labels), len(labelled(parts.training).labels)
    return {
        "teacher": evaluate(networks.teacher, parts.evaluation, every),
        "plain": evaluate(networks.plain, parts.evaluation, few),
        "plain_all_labels": evaluate(networks.plain_all_labels, parts.evaluation, every),
        "distilled": evaluate(networks.distilled, parts.evaluation, few),
    }


def write(networks: Networks, results: dict[str, Score], folder: Path) -> None:
    """Write the distilled student's weights, and the scores with the settings they belong to."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "student.safetensors").write_bytes(save(networks.distilled.state_dict()))
    settings: dict[str, Recipe | Distillation | Augmentation] = {
        "teacher": TEACHER,
        "student": STUDENT,
        "distillation": DISTILLATION,
        "augmentation": AUGMENTATION,
    }
    document = {
        "scores": {name: asdict(result) for name, result in results.items()},
        "settings": {name: asdict(setting) for name, setting in settings.items()},
    }
    (folder / "results.json").write_text(json.dumps(document, indent=2) + "\n")


def _draw(views: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Different images, each in one random view: two int64 (B,)."""
    return torch.randint(views.shape[0], (batch,)), torch.randperm(views.shape[1])[:batch]


def _affine(images: Tensor, ranges: Augmentation, generator: torch.Generator) -> Tensor:
    """One random view of each image: (N, 1, 28, 28) -> the same shape."""
    count, size = len(images), images.shape[-1]
    turn, zoom, right, down = torch.rand(4, count, generator=generator) * 2 - 1
    angle, scale = turn * math.radians(ranges.degrees), 1 + zoom * ranges.zoom
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # affine_grid's coordinates run from -1 to 1, so a pixel is 2 / size.
    step = 2 * ranges.shift / size
    matrices = torch.stack([cos, -sin, right * step, sin, cos, down * step], dim=1).reshape(-1, 2, 3)
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Distil the digits student again.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of student.safetensors and results.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    parts = split(load())
    networks = experiment(parts.training)
    results = scores(networks, parts)
    write(networks, results, arguments.out)
    for name, result in results.items():
        print(f"{name:16} {result.accuracy:.3f} [{result.low:.3f}, {result.high:.3f}], {result.parameters} weights, {result.labels} labels")


if __name__ == "__main__":
    main()
