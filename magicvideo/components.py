"""The parts of a pipeline: loaded from a checkpoint or one by one, checked, and saved; never guessed."""

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from torch import nn
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection
from transformers.utils import logging as transformers_logging

from magicvideo.appearance import export_appearance, load_appearance
from magicvideo.backbone import (
    appearance_processors,
    bare_backbone,
    extract_motion_adapter,
    inflate,
    share_spatial,
    use_appearance,
)
from magicvideo.config import PART_NAMES, InterpolatorKind
from magicvideo.errors import MagicVideoError
from magicvideo.lora import Adapter, add_deltas
from magicvideo.published import (
    animatediff_scheduler,
    check_finite,
    load_strictly,
    read_controlnet,
    read_motion_adapter,
    read_state,
)
from magicvideo.sources import EMBEDDED, locate, locate_part
from magicvideo.vfi.edsc import EDSC
from magicvideo.vfi.edsc import load_published as load_edsc
from magicvideo.vfi.ema import EMAVFI
from magicvideo.vfi.ema import load_published as load_ema
from magicvideo.vfi.interpolator import Interpolator
from magicvideo.vfi.vqgan import load_published as load_vqgan

__all__ = ["EMBEDDED", "Components", "load_components", "locate", "save_components"]

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
    "v2v_controlnet",
    "t2i_unet",
    "interpolator",
    "ema",
)
TUNED_T2I = "t2i_unet"  # text-to-image's own spatial layers, in checkpoints tuned there alone
OPTIONAL_PARTS = (TUNED_T2I, "v2v_appearance", "v2v_controlnet", "interpolator", "ema", "edsc", "vqgan")
DEFAULT_PARTS = ("scheduler", "feature_extractor")  # follow from the other parts where no folder holds them
WITHOUT_HUB_ID = {
    "ema": "EMA-VFI's ours_small_t.pkl or ours_t.pkl, see https://github.com/MCG-NJU/EMA-VFI",
    "edsc": "EDSC's EDSC_m.ckpt, see https://github.com/Xianhang/EDSC-pytorch",
    "vqgan": "LDMVFI's ldmvfi-vqflow-f32-c256-concat_max.ckpt, see https://github.com/danier97/LDMVFI",
    "interpolator": "a folder that this program's VFI training wrote",
}


@dataclass(kw_only=True)
class Components:
    """Every module of the four stages; ``unet`` holds the spatial layers that all stages share.

    Attributes:
        interpolator: the checkpoint's own interpolator.
        v2v_controlnet: V2V's own; None shares I2V's.
        t2i_unet: text-to-image's own spatial layers; None shares those of the other stages.
        ema: EMA-VFI by itself.
        edsc: EDSC by itself.
    """

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
    interpolator: nn.Module | None = None
    v2v_controlnet: ControlNetModel | None = None
    t2i_unet: UNet2DConditionModel | None = None
    ema: nn.Module | None = None
    edsc: nn.Module | None = None
    attentions: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Inflate the backbone twice: same spatial layers, motion modules of each stage's own."""
        check_betas(self.scheduler)
        self.i2v_unet = inflate(self.unet, self.i2v_motion)
        self.v2v_unet = inflate(self.unet, self.v2v_motion)

    def attach(self, appearance: Path, v2v_appearance: Path | None = None) -> None:
        """Attach I2V's appearance encoder; V2V shares it, or has its own on the same spatial layers."""
        load_appearance(self.i2v_unet, appearance)
        self.attentions = {"i2v": appearance_processors(self.i2v_unet)}
        if v2v_appearance is None:
            self.v2v_unet.encoder_hid_proj = self.i2v_unet.encoder_hid_proj
            self.v2v_unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
            share_spatial(self.i2v_unet, self.v2v_unet)
        else:
            load_appearance(self.v2v_unet, v2v_appearance)
            self.attentions["v2v"] = appearance_processors(self.v2v_unet)
            self.use_appearance("i2v")

    def adapt(self, adapter: Adapter) -> None:
        """Add an adapter to the weights: text-to-image's alone, or those of the spatial layers and I2V's motion.

        Raises:
            MagicVideoError: it was trained on another model.
        """
        if adapter.stages == "t2i":
            own = self.t2i_unet or bare_backbone(self.unet).eval().requires_grad_(False)
            add_deltas(own, adapter.deltas, adapter.source)
            self.t2i_unet = own
            return
        add_deltas(self.i2v_unet, adapter.deltas, adapter.source)
        if self.t2i_unet is not None:
            add_deltas(self.t2i_unet, adapter.spatial, adapter.source)
        if adapter.motion:
            self.i2v_motion = extract_motion_adapter(self.i2v_unet, self.i2v_motion)

    def use_appearance(self, stage: str) -> None:
        """Hang the stage's own image attentions into the spatial layers, if V2V has its own."""
        if "v2v" in self.attentions:
            use_appearance(self.i2v_unet, self.attentions[stage])

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules that hold weights, by name."""
        found = {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}
        for stage, processors in self.attentions.items():
            found[f"{stage}_attentions"] = nn.ModuleList(processors.values())
        return found


def load_components(
    folder: Path | None,
    sources: Mapping[str, str] | None = None,
    *,
    vfi: InterpolatorKind = "combined",
    dtype: torch.dtype = torch.float32,
) -> Components:
    """Load every part: from where ``sources`` says, else from a folder that ``save_components`` wrote.

    Where no folder is given, the noise schedule defaults to AnimateDiff's and the image preprocessing to CLIP's.

    Args:
        folder: a checkpoint, or None if ``sources`` names all parts.
        sources: by part (see ``magicvideo.config.PART_NAMES``): a hub id, folder or file in the published format.
        vfi: the kind of interpolation that must be possible.
        dtype: of the weights.

    Raises:
        MagicVideoError: parts are missing (all of them are named), or weights do not fit or are not finite.
    """
    places = _places(folder, sources or {}, vfi)
    unet = _load(UNet2DConditionModel, places["unet"], dtype)
    image_encoder = _load(CLIPVisionModelWithProjection, places["image_encoder"], dtype)
    v2v_controlnet, t2i_unet = places.get("v2v_controlnet"), places.get(TUNED_T2I)
    parts = Components(
        vae=_load_vae(places["vae"], dtype),
        tokenizer=_read(CLIPTokenizer.from_pretrained, places["tokenizer"]),
        text_encoder=_load(CLIPTextModel, places["text_encoder"], dtype),
        unet=unet,
        scheduler=_scheduler(places.get("scheduler")),
        image_encoder=image_encoder,
        feature_extractor=_feature_extractor(places.get("feature_extractor"), image_encoder),
        controlnet=_load_controlnet(places["controlnet"], unet, dtype),
        i2v_motion=_load_motion(places["i2v_motion"], dtype),
        v2v_motion=_load_motion(places["v2v_motion"], dtype),
        v2v_controlnet=None if v2v_controlnet is None else _load_controlnet(v2v_controlnet, unet, dtype),
        t2i_unet=None if t2i_unet is None else _load(UNet2DConditionModel, t2i_unet, dtype),
        **_load_interpolators(places, dtype),
    )
    parts.attach(places["appearance"], places.get("v2v_appearance"))
    for module in parts.modules().values():
        cast(module, "cpu", dtype)
        module.eval().requires_grad_(False)
    return parts


def save_components(parts: Components, folder: Path) -> None:
    """Write every part as safetensors in the layout that ``load_components`` reads; weights become contiguous."""
    for module in parts.modules().values():
        nn.Module.to(module, memory_format=torch.contiguous_format)
    bare_backbone(parts.unet).save_pretrained(folder / "unet")
    for name in SAVED_AS_THEY_ARE:
        if getattr(parts, name) is not None:
            getattr(parts, name).save_pretrained(folder / name)
    if parts.edsc is not None:
        save_file(parts.edsc.state_dict(), folder / "edsc.safetensors")
    save_file(export_appearance(parts.i2v_unet), folder / "appearance.safetensors")
    if "v2v" in parts.attentions:
        parts.use_appearance("v2v")
        save_file(export_appearance(parts.v2v_unet), folder / "v2v_appearance.safetensors")
        parts.use_appearance("i2v")
    forget_origins(folder)


def forget_origins(folder: Path) -> None:
    """Take out of the parts' configurations where each was once loaded from, which says nothing elsewhere."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def cast(module: nn.Module, device: torch.device | str, dtype: torch.dtype) -> None:
    """Move a module; diffusers' own method warns about every single one."""
    nn.Module.to(module, device=device, dtype=dtype)


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


def _places(folder: Path | None, sources: Mapping[str, str], vfi: InterpolatorKind) -> dict[str, Path]:
    """Find every part; all that are missing are named in one sentence."""
    places: dict[str, Path] = {}
    missing = []
    for name in (*PART_NAMES, TUNED_T2I):
        source = sources.get(name)
        place = _within(folder, name) if source is None else locate_part(source)
        if place is not None:
            places[name] = place
        elif source is not None:
            missing.append(f"{name} ({source})")
        elif not (name in OPTIONAL_PARTS or (folder is None and name in DEFAULT_PARTS)):
            missing.append(name)
    lacking = _lacking_for(vfi, {*places, *sources}, composed=folder is None)
    missing += [f"{name} ({WITHOUT_HUB_ID[name]})" for name in lacking]
    if not missing:
        return places
    where = "the configuration" if folder is None else str(folder)
    raise MagicVideoError(
        f"{where} is no complete checkpoint: {', '.join(missing)} "
        f"{'is' if len(missing) == 1 else 'are'} missing from it; make the hub reachable, or download the parts "
        f"and name their folders or files with --part NAME=PATH"
    )


def _lacking_for(vfi: InterpolatorKind, known: set[str], *, composed: bool) -> list[str]:
    """Return what a kind of interpolation needs and is not among the ``known`` parts."""
    if vfi in ("blend", "repeat") or "interpolator" in known:
        return []
    if vfi != "combined":
        return [vfi] if vfi not in known else []
    halves = {"ema", "vqgan"}  # of the interpolator, in the published formats
    return sorted(halves - known) if composed or halves & known else ["interpolator"]


def _within(folder: Path | None, name: str) -> Path | None:
    if folder is None:
        return None
    candidates = (folder / name, folder / f"{name}.safetensors")
    return next((path for path in candidates if path.exists()), None)


def _scheduler(folder: Path | None) -> DDIMScheduler:
    return animatediff_scheduler() if folder is None else _read(DDIMScheduler.from_pretrained, folder)


def _feature_extractor(
    folder: Path | None, image_encoder: CLIPVisionModelWithProjection
) -> CLIPImageProcessor:
    """Return the preprocessing of a folder, or CLIP's own at the image encoder's size."""
    if folder is not None:
        return _read(CLIPImageProcessor.from_pretrained, folder)
    side = image_encoder.config.image_size
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def _load_vae(folder: Path, dtype: torch.dtype) -> AutoencoderTiny | AutoencoderKL:
    known = {cls.__name__: cls for cls in (AutoencoderKL, AutoencoderTiny)}
    config = _read(lambda path: json.loads((path / "config.json").read_text()), folder)
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name not in known:
        raise MagicVideoError(f"{folder} holds an autoencoder of class {name!r}; known: {', '.join(known)}")
    return _load(known[name], folder, dtype)


def _load_motion(place: Path, dtype: torch.dtype) -> MotionAdapter:
    return read_motion_adapter(place) if place.is_file() else _load(MotionAdapter, place, dtype)


def _load_controlnet(place: Path, unet: UNet2DConditionModel, dtype: torch.dtype) -> ControlNetModel:
    return read_controlnet(place, unet) if place.is_file() else _load(ControlNetModel, place, dtype)


def _load_interpolators(places: Mapping[str, Path], dtype: torch.dtype) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "ema" in places:
        place = places["ema"]
        found["ema"] = load_ema(place) if place.is_file() else _load(EMAVFI, place, dtype)
    if "edsc" in places:
        found["edsc"] = _load_edsc(places["edsc"])
    if "interpolator" in places:
        found["interpolator"] = _load(Interpolator, places["interpolator"], dtype)
    elif "vqgan" in places and "ema" in places:
        found["interpolator"] = _compose_interpolator(places["vqgan"], found["ema"])
    return found


def _load_edsc(place: Path) -> EDSC:
    if place.suffix != ".safetensors":
        return _read(load_edsc, place)
    model = EDSC()
    load_strictly(model, read_state(place), place)
    return model


def _compose_interpolator(vqgan: Path, ema: EMAVFI) -> Interpolator:
    """Combine EMA-VFI and the VQ-GAN as published; they were not trained together, which training can mend."""
    size = {"width": ema.config["width"], "depths": ema.config["depths"]}
    with torch.device("meta"):
        model = Interpolator(widths=None, kernel_size=5, scale=1, ema=size, vqgan={})
    model.to_empty(device="cpu")
    model.flow = ema
    model.generator = _read(load_vqgan, vqgan)
    check_finite(model.generator.state_dict(), vqgan)
    for value in model.fusion.parameters():
        nn.init.zeros_(value)
    return model


def _load(cls, folder: Path, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    """Load one model; a missing, unexpected or misshapen weight is an error that lists it."""
    name = "dtype" if cls.__module__.startswith("transformers") else "torch_dtype"
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # a bar a part, each done in milliseconds
    try:
        model, info = _read(
            lambda path: cls.from_pretrained(path, output_loading_info=True, **{name: dtype}), folder
        )
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
    odd = {
        key: [item for item in info[key] if not str(item).endswith("position_ids")]
        for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info.get(key)
    }
    if any(odd.values()):
        raise MagicVideoError(f"the weights in {folder} do not fit: {json.dumps(odd, default=str)}")
    check_finite(model.state_dict(), folder)
    return model


def _read(reader: Callable[[Path], Any], folder: Path) -> Any:
    """Read a part from its folder; what the libraries make of a damaged one becomes a sentence."""
    try:
        return reader(folder)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip() or type(error).__name__
        raise MagicVideoError(f"cannot load {folder}: {reason}") from error
