"""Load and save the parts of a pipeline: from the package, a local folder or the hub; never guessing."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection
from transformers.utils import logging as transformers_logging

from magicvideo.appearance import export_appearance, load_appearance
from magicvideo.backbone import inflate, share_spatial
from magicvideo.errors import MagicVideoError
from magicvideo.vfi.interpolator import Interpolator

EMBEDDED = "embedded:"
APPEARANCE_FILE = "appearance.safetensors"
SAVED_AS_THEY_ARE = (
    "vae",
    "tokenizer",
    "text_encoder",
    "scheduler",
    "image_encoder",
    "feature_extractor",
    "controlnet",
    "i2v_motion",
    "v2v_motion",
    "interpolator",
)


@dataclass(kw_only=True)
class Components:
    """Every module of the four stages; ``unet`` holds the spatial layers that all stages share."""

    vae: AutoencoderTiny | AutoencoderKL
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler
    image_encoder: CLIPVisionModelWithProjection
    feature_extractor: CLIPImageProcessor
    controlnet: ControlNetModel
    i2v_motion: MotionAdapter
    v2v_motion: MotionAdapter
    interpolator: Interpolator

    def __post_init__(self) -> None:
        """Inflate the backbone twice: same spatial layers, motion modules of each stage's own."""
        check_betas(self.scheduler)
        self.i2v_unet = inflate(self.unet, self.i2v_motion)
        self.v2v_unet = inflate(self.unet, self.v2v_motion)

    def attach(self, appearance: Path) -> None:
        """Attach an appearance encoder, shared by I2V and V2V."""
        load_appearance(self.i2v_unet, appearance)
        share_spatial(self.i2v_unet, self.v2v_unet)
        self.v2v_unet.encoder_hid_proj = self.i2v_unet.encoder_hid_proj
        self.v2v_unet.register_to_config(encoder_hid_dim_type="ip_image_proj")

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return the modules that hold weights, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.nn.Module)}


def locate(checkpoint: str) -> Path:
    """Return the local folder of a checkpoint: ``embedded:NAME``, a folder, or a hub id.

    Raises:
        MagicVideoError: there is no such thing.
    """
    if checkpoint.startswith(EMBEDDED):
        return Path(str(resources.files("magicvideo") / "weights" / checkpoint.removeprefix(EMBEDDED)))
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(checkpoint))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise MagicVideoError(
            f"no checkpoint at {checkpoint!r}: it is neither a folder nor a hub id that can be reached; "
            f"give a folder written by save_pretrained"
        ) from error


def load_components(folder: Path) -> Components:
    """Load every part from a folder that ``save_components`` wrote.

    Raises:
        MagicVideoError: a part is missing, or its weights do not fit its configuration.
    """
    parts = Components(
        vae=_load(AutoencoderTiny, folder / "vae"),
        tokenizer=CLIPTokenizer.from_pretrained(_existing(folder / "tokenizer")),
        text_encoder=_load(CLIPTextModel, folder / "text_encoder"),
        unet=_load(UNet2DConditionModel, folder / "unet"),
        scheduler=DDIMScheduler.from_pretrained(_existing(folder / "scheduler")),
        image_encoder=_load(CLIPVisionModelWithProjection, folder / "image_encoder"),
        feature_extractor=CLIPImageProcessor.from_pretrained(_existing(folder / "feature_extractor")),
        controlnet=_load(ControlNetModel, folder / "controlnet"),
        i2v_motion=_load(MotionAdapter, folder / "i2v_motion"),
        v2v_motion=_load(MotionAdapter, folder / "v2v_motion"),
        interpolator=_load(Interpolator, folder / "interpolator"),
    )
    parts.attach(_existing(folder / APPEARANCE_FILE))
    for module in parts.modules().values():
        module.eval().requires_grad_(False)
    return parts


def save_components(parts: Components, folder: Path) -> None:
    """Write every part as safetensors in the layout that ``load_components`` reads."""
    _save_spatial(parts.unet, folder / "unet")
    for name in SAVED_AS_THEY_ARE:
        getattr(parts, name).save_pretrained(folder / name)
    save_file(export_appearance(parts.i2v_unet), folder / APPEARANCE_FILE)


def check_betas(scheduler: DDIMScheduler) -> None:
    """Refuse a noise schedule that AnimateDiff's motion modules were not trained with.

    Raises:
        MagicVideoError: the betas are not linear (Stable Diffusion's own are ``scaled_linear``).
    """
    schedule = scheduler.config["beta_schedule"]
    if schedule != "linear":
        raise MagicVideoError(
            f"the scheduler has beta_schedule={schedule!r}, but AnimateDiff motion modules need 'linear'; "
            f"use scheduler.from_config(scheduler.config, beta_schedule='linear')"
        )


def _save_spatial(unet: UNet2DConditionModel, folder: Path) -> None:
    """Save the backbone without the image attentions that hang on its shared layers."""
    bare = UNet2DConditionModel.from_config(unet.config)
    bare.to(unet.dtype)
    state = {key: value for key, value in unet.state_dict().items() if ".processor." not in key}
    bare.load_state_dict(state)
    bare.save_pretrained(folder)


def _load(cls, folder: Path):  # type: ignore[no-untyped-def]
    """Load one model in float32; a missing, unexpected or misshapen weight is an error that lists it."""
    _existing(folder)
    name = "dtype" if cls.__module__.startswith("transformers") else "torch_dtype"
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # a bar a part, each done in milliseconds
    try:
        model, info = cls.from_pretrained(folder, output_loading_info=True, **{name: torch.float32})
    except (OSError, RuntimeError, ValueError) as error:
        raise MagicVideoError(f"cannot load {folder}: {error}") from error
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
    odd = {
        key: list(info[key])
        for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info.get(key)
    }
    if odd:
        raise MagicVideoError(f"the weights in {folder} do not fit: {json.dumps(odd, default=str)}")
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise MagicVideoError(f"the weights in {folder} are not finite: {name}")
    return model


def _existing(path: Path) -> Path:
    if not path.exists():
        raise MagicVideoError(f"{path.parent} is no complete checkpoint: {path.name} is missing from it")
    return path
