"""Networks that read images, from transformers' own classes with small random configurations."""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn

from tests.zoo.architecture import Architecture, Called, ids, normal

_SIDE = 32
_VIT: dict[str, Any] = {
    "image_size": _SIDE,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_LOGITS = "logits"


def _image(
    name: str, kind: str, model: str, wanted: tuple[str, ...] = ("last_hidden_state",), side: int = _SIDE, **config: Any
) -> Architecture:
    def make() -> nn.Module:
        held = getattr(transformers, kind)(**{"attn_implementation": "eager", **config})
        return Called(getattr(transformers, model)(held), ("pixel_values",), wanted)

    return Architecture(name, make, {"pixel_values": normal(1, 3, side, side)})


_STAGES: dict[str, Any] = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}
_SWIN: dict[str, Any] = {"image_size": _SIDE, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_SEGFORMER: dict[str, Any] = {
    "num_encoder_blocks": 4, "depths": [1, 1, 1, 1], "sr_ratios": [4, 2, 2, 1], "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16, "num_labels": 5,
}  # fmt: skip
_RESNET: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}
_MOBILEVIT: dict[str, Any] = {
    "image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 12, 16, 24, 32, 40, 48], "num_attention_heads": 2,
    "intermediate_size": 32,
}  # fmt: skip
_CLIP_TEXT: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 1,
}  # fmt: skip


def _resnet_backbone() -> Any:
    return transformers.ResNetConfig(**_RESNET, out_features=["stage4"])


def _detr() -> nn.Module:
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=_resnet_backbone(), d_model=32,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
        num_queries=10, num_labels=4, attn_implementation="eager",
    )  # fmt: skip
    return Called(transformers.DetrForObjectDetection(config), ("pixel_values",), ("logits", "pred_boxes"))


def _dpt() -> nn.Module:
    config = transformers.DPTConfig(
        **{**_VIT, "num_hidden_layers": 4}, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 12, 16, 24], fusion_hidden_size=16,
        is_hybrid=False, attn_implementation="eager",
    )  # fmt: skip
    return Called(transformers.DPTForDepthEstimation(config), ("pixel_values",), ("predicted_depth",))


def _text(kind: str, model: str) -> nn.Module:
    held = getattr(transformers, kind)(**_CLIP_TEXT, attn_implementation="eager")
    return Called(getattr(transformers, model)(held), ("input_ids",), ("last_hidden_state", "pooler_output"))


ARCHITECTURES = [
    _image("ViT", "ViTConfig", "ViTModel", **_VIT),
    _image("DeiT", "DeiTConfig", "DeiTModel", **_VIT),
    _image("BEiT", "BeitConfig", "BeitModel", **_VIT, use_relative_position_bias=True),
    _image("Swin", "SwinConfig", "SwinModel", **_SWIN),
    _image("SwinV2", "Swinv2Config", "Swinv2Model", **_SWIN),
    _image("ConvNeXt", "ConvNextConfig", "ConvNextModel", **_STAGES),
    _image("ConvNeXtV2", "ConvNextV2Config", "ConvNextV2Model", **_STAGES),
    _image("MobileViT", "MobileViTConfig", "MobileViTModel", side=64, **_MOBILEVIT),
    _image("MobileNetV1", "MobileNetV1Config", "MobileNetV1ForImageClassification", (_LOGITS,), side=64, depth_multiplier=0.25),
    _image("MobileNetV2", "MobileNetV2Config", "MobileNetV2ForImageClassification", (_LOGITS,), side=64, depth_multiplier=0.35),
    _image(
        "EfficientNet",
        "EfficientNetConfig",
        "EfficientNetForImageClassification",
        (_LOGITS,),
        side=64,
        image_size=64,
        width_coefficient=0.25,
        depth_coefficient=0.4,
        hidden_dim=320,
    ),
    _image("ResNet", "ResNetConfig", "ResNetForImageClassification", (_LOGITS,), side=64, **_RESNET),
    _image("RegNet", "RegNetConfig", "RegNetForImageClassification", (_LOGITS,), side=64, embedding_size=16, groups_width=8, **_STAGES),
    _image("SegFormer", "SegformerConfig", "SegformerForSemanticSegmentation", (_LOGITS,), side=64, **_SEGFORMER),
    Architecture("DPT", _dpt, {"pixel_values": normal(1, 3, _SIDE, _SIDE)}),
    Architecture("DETR", _detr, {"pixel_values": normal(1, 3, 64, 64)}),
    _image(
        "YOLOS",
        "YolosConfig",
        "YolosForObjectDetection",
        ("logits", "pred_boxes"),
        **{**_VIT, "image_size": [_SIDE, _SIDE]},
        num_detection_tokens=8,
        use_mid_position_embeddings=True,
    ),
    _image("CLIP vision", "CLIPVisionConfig", "CLIPVisionModel", ("last_hidden_state", "pooler_output"), **_VIT),
    Architecture("CLIP text", lambda: _text("CLIPTextConfig", "CLIPTextModel"), {"input_ids": ids(1, 12)}),
    _image("SigLIP vision", "SiglipVisionConfig", "SiglipVisionModel", ("last_hidden_state", "pooler_output"), **_VIT),
    Architecture("SigLIP text", lambda: _text("SiglipTextConfig", "SiglipTextModel"), {"input_ids": ids(1, 12)}),
    _image("BLIP vision", "BlipVisionConfig", "BlipVisionModel", ("last_hidden_state", "pooler_output"), **_VIT),
    _image("DINOv2", "Dinov2Config", "Dinov2Model", **_VIT),
]
