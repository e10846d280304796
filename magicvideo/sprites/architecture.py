"""The untrained parts of the sprites preset, each of the class its published counterpart has."""

import json
import string
from pathlib import Path

from diffusers import ControlNetModel, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from magicvideo.sprites.scene import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES

GRAMMAR = ("a", "an", "and", "on", "background")
TEXT_LENGTH = 24  # tokens of a prompt, the two marks at its ends included
TEXT_DIM = 128
CHANNELS = (48, 80, 112)
IMAGE_DIM = 64
NUM_FRAMES = 32


def vocabulary_words() -> tuple[str, ...]:
    """Return every word that captions of the domain use, in a fixed order."""
    phrases = (*GRAMMAR, *SIZES, *COLOURS, *SHAPES, *MOTIONS, *BACKGROUNDS)
    return tuple(dict.fromkeys(word for phrase in phrases for word in phrase.split()))


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write ``vocab.json`` and ``merges.txt`` so that each word of the domain is one token; load them.

    Unknown words fall apart into single letters, as rare words do in the published tokenizer.
    """
    merges = []
    for word in sorted(vocabulary_words(), key=lambda item: (-len(item), item)):
        pieces = [*word[:-1], word[-1] + "</w>"]
        for index in range(1, len(pieces)):
            merges.append(("".join(pieces[:index]), pieces[index]))
    merges = list(dict.fromkeys(merges))
    symbols = string.ascii_lowercase + string.digits + string.punctuation
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in merges) + "\n")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=TEXT_LENGTH,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_text_encoder(vocabulary_size: int) -> CLIPTextModel:
    """Return a CLIP text encoder of three layers.

    Token embeddings start wide: CLIP's own deviation of 0.02 drowns a word's identity in the residual stream, and
    a thousand steps of training did not dig it out again.
    """
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=TEXT_DIM,
            intermediate_size=2 * TEXT_DIM,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=vocabulary_size - 2,
            eos_token_id=vocabulary_size - 1,
            pad_token_id=vocabulary_size - 1,
        )
    )
    nn.init.normal_(encoder.get_input_embeddings().weight, std=0.5)
    return encoder


def build_unet() -> UNet2DConditionModel:
    """Return the spatial backbone that T2I, I2V and V2V share."""
    return UNet2DConditionModel(
        sample_size=33,
        in_channels=4,
        out_channels=4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_DIM,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_motion_adapter() -> MotionAdapter:
    """Return an untrained motion module for the backbone."""
    return MotionAdapter(
        block_out_channels=CHANNELS,
        motion_layers_per_block=1,
        motion_num_attention_heads=4,
        motion_norm_num_groups=16,
        motion_max_seq_length=NUM_FRAMES,
        use_motion_mid_block=True,
    )


def build_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """Return a ControlNet that starts as the backbone's encoder and adds nothing yet."""
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 24, 32, 48))


def build_image_encoder() -> CLIPVisionModelWithProjection:
    """Return the vision tower whose embedding the appearance encoder projects to image tokens."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
            projection_dim=IMAGE_DIM,
        )
    )


def build_scheduler() -> DDIMScheduler:
    """Return the noise schedule: AnimateDiff's linear betas, velocity prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
    )
