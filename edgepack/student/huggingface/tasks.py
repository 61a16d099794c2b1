"""Tasks: what a class of model answers. An architecture's task is looked up in transformers' own tables, never by a model's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgepack.student.huggingface.folder import ModelFolder
from edgepack.student.spec import StudentError


@dataclass(frozen=True)
class Task:
    """What is asked of a model.

    Attributes:
        name: as the Hugging Face hub and optimum call it.
        auto: the class of transformers that loads it; table: the name of its table of architectures.
        outputs: (name, layout) of what it answers: fields of the model's output.
        labelled: whether config.json's id2label names the last axis of the first output.
    """

    name: str
    auto: str
    table: str
    outputs: tuple[tuple[str, str], ...]
    labelled: bool = False


SENTENCE = Task("sentence-similarity", "AutoModel", "", (("sentence_embedding", "NC"),))
FEATURES = Task("feature-extraction", "AutoModel", "MODEL_MAPPING_NAMES", (("last_hidden_state", ""),))
# The order matters where one architecture stands in two tables: the narrower task comes first.
TASKS = (
    Task(
        "text-classification",
        "AutoModelForSequenceClassification",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        (("logits", "NC"),),
        labelled=True,
    ),
    Task(
        "token-classification",
        "AutoModelForTokenClassification",
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
        (("logits", "NTC"),),
        labelled=True,
    ),
    Task(
        "question-answering",
        "AutoModelForQuestionAnswering",
        "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
        (("start_logits", "NT"), ("end_logits", "NT")),
    ),
    Task("fill-mask", "AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES", (("logits", "NTC"),)),
    Task("text-generation", "AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", (("logits", "NTC"),)),
    Task(
        "image-classification",
        "AutoModelForImageClassification",
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        (("logits", "NC"),),
        labelled=True,
    ),
    Task(
        "semantic-segmentation",
        "AutoModelForSemanticSegmentation",
        "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
        (("logits", "NCHW"),),
    ),
    Task(
        "object-detection",
        "AutoModelForObjectDetection",
        "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
        (("logits", ""), ("pred_boxes", "")),
    ),
    Task("depth-estimation", "AutoModelForDepthEstimation", "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES", (("predicted_depth", ""),)),
    FEATURES,
)
_BY_NAME = {task.name: task for task in (*TASKS, SENTENCE)}


def task_of(folder: ModelFolder, asked: str) -> Task:
    """The task of a folder: the one asked for, else sentence embedding where modules.json says so, else that of its architecture.

    Raises:
        StudentError: it is not one of these.
    """
    if asked and asked not in _BY_NAME:
        raise StudentError(f"task '{asked}' is not known", f"it is one of {', '.join(sorted(_BY_NAME))}")
    if asked == SENTENCE.name and not folder.modules:
        raise StudentError(f"{folder.root} has no modules.json, which would say how tokens become a sentence", "use feature-extraction")
    if asked:
        return _BY_NAME[asked]
    return SENTENCE if folder.modules else _of_architecture(folder)


def _of_architecture(folder: ModelFolder) -> Task:
    from transformers.models.auto import modeling_auto

    kind, architecture = str(folder.config.get("model_type")), folder.architecture
    for task in TASKS:
        if architecture and architecture in _classes(getattr(modeling_auto, task.table).get(kind)):
            return task
    raise StudentError(
        f"no task is known for architecture '{architecture}' of model type '{kind}'",
        f"set task in edgepack.toml to one of {', '.join(sorted(_BY_NAME))}, or write a factory student.py:student",
    )


def _classes(entry: Any) -> tuple[str, ...]:
    """Names of classes: a table holds one, or several for one type of model."""
    return (entry,) if isinstance(entry, str) else tuple(entry or ())
