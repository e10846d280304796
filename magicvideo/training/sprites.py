"""The recipe of the embedded checkpoint: every part of the sprites preset from nothing, stage by stage.

Each stage writes its own folder under the training folder and is skipped where its result is there; a stage that
was interrupted resumes. What a stage needs from another it reads from that stage's folder.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer

from magicvideo.appearance import attach_appearance
from magicvideo.backbone import extract_motion_adapter, inflate, zero_motion_output
from magicvideo.components import Components, forget_origins, load_components, save_components
from magicvideo.errors import MagicVideoError
from magicvideo.noise_prior import MIXED_SHARE
from magicvideo.pipeline import CONFIG_FILE, MagicVideoPipeline, check_device
from magicvideo.presets import SPRITES
from magicvideo.sprites import architecture
from magicvideo.sprites.evaluation import held_out_scenes
from magicvideo.sprites.judge import SpritesJudge
from magicvideo.sprites.sheet import draw
from magicvideo.training.autoencoder import build_autoencoder, train_autoencoder
from magicvideo.training.data import frame_pool
from magicvideo.training.diffusion import (
    Conditions,
    ImageBatches,
    LatentPool,
    VideoBatches,
    VideoParts,
    VideoPool,
    train_image_layers,
    train_image_to_video,
    train_own_layers,
    train_text_to_image,
    train_video_to_video,
)
from magicvideo.training.gaps import gap_pool
from magicvideo.training.judge import train_judge, train_on_openings
from magicvideo.training.loop import TrainConfig, save_tensors, sha256_of, write_json
from magicvideo.training.sprites_configs import (
    AUTOENCODER,
    CLOSING,
    CORNERS,
    DECODER,
    EXTREMES,
    FITTING,
    HIGH,
    I2V,
    IMAGE_SHARE,
    LEANING,
    LEANT_ON,
    LOW,
    POLISHING,
    REFITTING,
    SETTLING,
    T2I,
    V2V,
)
from magicvideo.training.sprites_pools import make_pools, seen_often
from magicvideo.training.vfi import train_vfi
from magicvideo.vfi.interpolator import Interpolator

ALL_STAGES = (
    "autoencoder",
    "decoder",
    "pools",
    "t2i",
    "i2v",
    "closing",
    "settling",
    "polishing",
    "fitting",
    "corners",
    "extremes",
    "refitting",
    "leaning",
    "v2v",
    "interpolator",
    "judge",
    "openings",
    "assemble",
    "sheet",
)

# Stages that leave a recipe.json of their own; the interpolator's is in its model's folder.
RECIPES = tuple(name for name in ALL_STAGES if name not in ("pools", "interpolator", "assemble", "sheet"))
SHEET_ROWS = 12
FRAMES = 8  # of a clip's 32 that a training step sees, at their true positions


def train_stage(stage: str, root: Path, checkpoint: Path, device: str = "cpu") -> None:
    """Train one stage (see ``ALL_STAGES``) on ``device`` into ``root``; the last one writes ``checkpoint``.

    Raises:
        MagicVideoError: an unknown stage, or one whose predecessors have not been trained yet.
    """
    stages: dict[str, Callable[[], object]] = {
        "autoencoder": lambda: _autoencoder(root, device),
        "decoder": lambda: _decoder(root, device),
        "pools": lambda: _pools(root, device),
        "t2i": lambda: _t2i(root, device),
        "i2v": lambda: _i2v(root, device),
        "closing": lambda: _closing(root, device),
        "settling": lambda: _settling(root, device),
        "polishing": lambda: _polishing(root, device),
        "fitting": lambda: _fit(root, device, "polishing", FITTING, "fitting"),
        "corners": lambda: _corners(root, device),
        "extremes": lambda: _extremes(root, device),
        "refitting": lambda: _fit(root, device, "extremes", REFITTING, "refitting"),
        "leaning": lambda: _fit(root, device, "refitting", LEANING, "leaning", LEANT_ON),
        "v2v": lambda: _v2v(root, device),
        "interpolator": lambda: _interpolator(root, device),
        "judge": lambda: train_judge(root / "judge", device=device),
        "openings": lambda: _openings(root, device),
        "assemble": lambda: assemble(root, checkpoint),
        "sheet": lambda: _sheet(root, checkpoint),
    }
    if stage not in stages:
        raise MagicVideoError(f"unknown training stage {stage!r}; known: {', '.join(ALL_STAGES)}")
    check_device(device)
    root.mkdir(parents=True, exist_ok=True)
    stages[stage]()


def assemble(root: Path, folder: Path) -> None:
    """Write the trained parts as a checkpoint in float16, with the preset's settings, recipes and digests."""
    interpolator = _existing(root / "interpolator" / "model")
    i2v, v2v = _load_video(root, "leaning"), _load_video(root, "v2v")
    like = architecture.build_motion_adapter()
    tokenizer, vae = _tokenizer(root), _vae(root, "decoder")
    parts = Components(
        vae=vae.to(memory_format=torch.contiguous_format),
        tokenizer=tokenizer,
        text_encoder=i2v.text_encoder,
        unet=i2v.image_unet,
        scheduler=architecture.build_scheduler(),
        image_encoder=i2v.image_encoder,
        feature_extractor=build_feature_extractor(),
        controlnet=i2v.controlnet,
        i2v_motion=extract_motion_adapter(i2v.unet, like),
        v2v_motion=extract_motion_adapter(v2v.unet, like),
        interpolator=Interpolator.from_pretrained(interpolator),
    )
    parts.i2v_unet = i2v.unet
    for module in parts.modules().values():
        module.to(torch.float16)
    temporary = folder.with_name(folder.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    save_components(parts, temporary)
    load_components(temporary)
    for stage in RECIPES:
        shutil.copy(root / stage / "recipe.json", temporary / f"recipe-{stage}.json")
    shutil.copytree(_existing(root / "openings" / "model"), temporary / "judge")
    forget_origins(temporary)
    shutil.copytree(interpolator, temporary / "interpolator", dirs_exist_ok=True)  # with its recipe
    write_json(temporary / CONFIG_FILE, SPRITES.to_dict())  # whoever reads it puts its own place in
    digests = {
        str(path.relative_to(temporary)): sha256_of(path) for path in sorted(temporary.rglob("*.safetensors"))
    }
    write_json(temporary / "sha256.json", digests)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def _sheet(root: Path, checkpoint: Path) -> None:
    """Draw ``contact-sheet.jpg``: what every stage of the checkpoint makes of held-out prompts."""
    pipe = MagicVideoPipeline.from_pretrained(str(_existing(checkpoint)))
    prompts = [scene.caption for scene in held_out_scenes(SHEET_ROWS, 1)]
    draw(pipe, prompts).save(root / "contact-sheet.jpg", quality=88)


def build_feature_extractor() -> CLIPImageProcessor:
    """Return the image encoder's preprocessing: 64 px, [-1, 1]."""
    side = {"height": 64, "width": 64}
    return CLIPImageProcessor(
        size=side, do_center_crop=False, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def _autoencoder(root: Path, device: str) -> None:
    torch.manual_seed(AUTOENCODER.seed)
    vae = build_autoencoder().to(device, memory_format=torch.channels_last)
    pool = frame_pool(4000, LOW, 1)
    train_autoencoder(vae, pool, AUTOENCODER, root / "autoencoder")
    vae.save_pretrained(root / "autoencoder" / "vae")


def _decoder(root: Path, device: str) -> None:
    """Fit the decoder alone further: sharper frames, and right ones from latents that a denoiser has made."""
    vae = _vae(root).to(device).train()
    train_autoencoder(vae, frame_pool(4000, LOW, 2), DECODER, root / "decoder", decoder_only=True)
    vae.save_pretrained(root / "decoder" / "vae")


def _pools(root: Path, device: str) -> None:
    make_pools(_vae(root, "decoder").to(device), _tokenizer(root), root / "pools")


def _t2i(root: Path, device: str) -> None:
    """Train the image model and its text encoder at both resolutions."""
    tokenizer = _tokenizer(root)
    torch.manual_seed(T2I.seed)
    unet = architecture.build_unet().to(device, memory_format=torch.channels_last)
    text_encoder = architecture.build_text_encoder(len(tokenizer)).to(device)
    pools = [
        (_frame_pool(root, "frames_low"), T2I.batch_size, 0.5),
        (_frame_pool(root, "frames_high"), 16, 0.5),
    ]
    scheduler = architecture.build_scheduler()
    batches = ImageBatches(pools, unet, text_encoder, tokenizer, scheduler, T2I.seed, compile_unet=True)
    train_text_to_image(batches, T2I, root / "t2i")
    unet.save_pretrained(root / "t2i" / "unet")
    text_encoder.save_pretrained(root / "t2i" / "text_encoder")


def _i2v(root: Path, device: str) -> None:
    """Train I2V jointly on clips and images, from the image model."""
    _train_joint(root, _to(device, _new_video(root)), I2V, "i2v", cycle="VVI", shares=(0.5, 0.5))


def _closing(root: Path, device: str) -> None:
    """Train I2V's end mostly on images, from the mean of its spatial layers and the image model's."""
    parts, image = _load_video(root, "i2v"), _new_video(root)
    mix(parts.image_unet, image.image_unet, 0.5)
    mix(parts.text_encoder, image.text_encoder, 0.5)
    _train_joint(
        root, _to(device, parts), CLOSING, "closing", cycle="VII", shares=(0.3, 0.7), compile_unet=True
    )


def _settling(root: Path, device: str) -> None:
    """Bring the spatial layers back to the image model, all but those that read the text, and fit the rest to them."""
    parts, image = _load_video(root, "closing"), _new_video(root)
    mix(parts.image_unet, image.image_unet, IMAGE_SHARE, keep="attn2")
    videos = _low_clips(root, _to(device, parts), SETTLING, {})
    train_own_layers(videos, SETTLING, root / "settling")
    _save_video(parts, root / "settling")


def _polishing(root: Path, device: str) -> None:
    """Train the spatial layers that do not read the text further on images, mostly at the reference image's size."""
    _train_images(root, _to(device, _load_video(root, "settling")), POLISHING, "polishing", {})


def _corners(root: Path, device: str) -> None:
    """Go on with hexagons more often: their corners came out round in two of five images."""
    _train_images(root, _to(device, _load_video(root, "fitting")), CORNERS, "corners", {"hexagon": 3})


def _extremes(root: Path, device: str) -> None:
    """Go on with the largest objects, half of which still came out torn, and the smallest more often too."""
    often = {"hexagon": 3, "large shrinking": 5, "small growing": 3}
    _train_images(root, _to(device, _load_video(root, "corners")), EXTREMES, "extremes", often)


def _train_images(
    root: Path, parts: VideoParts, config: TrainConfig, stage: str, often: Mapping[str, int]
) -> None:
    parts.text_encoder.requires_grad_(False)
    images = _images(root, parts, config, (0.3, 0.7), compile_unet=True, often=often)
    train_image_layers(images, config, root / stage, keep="attn2")
    _save_video(parts, root / stage)


def _fit(
    root: Path,
    device: str,
    before: str,
    config: TrainConfig,
    stage: str,
    conditions: Conditions | None = None,
) -> None:
    """Fit I2V's own layers to the others, on spinning objects, which it learns last, three times as often."""
    parts = _to(device, _load_video(root, before))
    videos = _low_clips(root, parts, config, {"spinning": 3}, conditions)
    train_own_layers(videos, config, root / stage)
    _save_video(parts, root / stage)


@torch.no_grad()
def mix(module: torch.nn.Module, other: torch.nn.Module, share: float, keep: str | None = None) -> None:
    """Take a ``share`` of each parameter from ``other``, but of those with ``keep`` in their name."""
    others = dict(other.named_parameters())
    for name, value in module.named_parameters():
        if keep is None or keep not in name:
            value.lerp_(others[name], share)


def _low_clips(
    root: Path,
    parts: VideoParts,
    config: TrainConfig,
    often: Mapping[str, int],
    conditions: Conditions | None = None,
) -> VideoBatches:
    """Return I2V's batches; their frames share half their noise and so hold together much earlier."""
    tokenizer = _tokenizer(root)
    return VideoBatches(
        seen_often(_video_pool(root, "clips_low"), tokenizer, often),
        parts,
        tokenizer,
        architecture.build_scheduler(),
        seed=config.seed,
        clips=config.batch_size,
        frames=FRAMES,
        shared_noise=MIXED_SHARE,
        conditions=conditions,
    )


def _train_joint(
    root: Path,
    parts: VideoParts,
    config: TrainConfig,
    stage: str,
    *,
    cycle: str,
    shares: tuple[float, float],
    compile_unet: bool = False,
) -> None:
    """Train ``parts`` on videos and images in the order of ``cycle``; ``shares`` are of images, low and high."""
    images = _images(root, parts, config, shares, compile_unet=compile_unet, often={})
    train_image_to_video(_low_clips(root, parts, config, {}), images, config, root / stage, cycle=cycle)
    _save_video(parts, root / stage)


def _images(
    root: Path,
    parts: VideoParts,
    config: TrainConfig,
    shares: tuple[float, float],
    *,
    compile_unet: bool,
    often: Mapping[str, int],
) -> ImageBatches:
    """Return batches of images; ``shares`` are of those at low and at high resolution.

    ``often`` tells which of them are seen several times as often; see ``seen_often``.
    """
    tokenizer = _tokenizer(root)
    pools = [seen_often(_frame_pool(root, name), tokenizer, often) for name in ("frames_low", "frames_high")]
    return ImageBatches(
        list(zip(pools, (40, 16), shares, strict=True)),
        parts.image_unet,
        parts.text_encoder,
        tokenizer,
        architecture.build_scheduler(),
        config.seed,
        compile_unet=compile_unet,
    )


def _v2v(root: Path, device: str) -> None:
    parts = _to(device, _load_video(root, "leaning"))
    videos = VideoBatches(
        _video_pool(root, "clips_high"),
        parts,
        _tokenizer(root),
        architecture.build_scheduler(),
        seed=V2V.seed,
        clips=2,
        frames=FRAMES,
        timesteps=(20, 420),
    )
    train_video_to_video(videos, V2V, root / "v2v")
    _save_video(parts, root / "v2v")


def _interpolator(root: Path, device: str) -> None:
    pool, validation = gap_pool(300, HIGH, seed=0), gap_pool(12, HIGH, seed=1, split="held_out")
    train_vfi(root / "interpolator", device=device, pool=pool, validation=validation)


def _openings(root: Path, device: str) -> None:
    """Train the judge further on opening frames that went through the finished autoencoder."""
    judge = SpritesJudge.from_pretrained(_existing(root / "judge" / "model"), torch_dtype=torch.float32)
    train_on_openings(judge.to(device), _vae(root, "decoder").to(device), root / "openings", size=HIGH)


def _new_video(root: Path) -> VideoParts:
    """Start a video stage from the image model: zero motion output, empty ControlNet, untrained appearance."""
    torch.manual_seed(2)
    image_unet = UNet2DConditionModel.from_pretrained(root / "t2i" / "unet").to(
        memory_format=torch.channels_last
    )
    motion = architecture.build_motion_adapter()
    zero_motion_output(motion)
    controlnet = architecture.build_controlnet(image_unet)
    unet = inflate(image_unet, motion)
    attach_appearance(unet, architecture.IMAGE_DIM)
    return VideoParts(
        unet=unet,
        image_unet=image_unet,
        controlnet=controlnet,
        image_encoder=architecture.build_image_encoder(),
        text_encoder=CLIPTextModel.from_pretrained(root / "t2i" / "text_encoder"),
    )


def _modules(parts: VideoParts) -> dict[str, torch.nn.Module]:
    return {
        "unet": parts.unet,
        "controlnet": parts.controlnet,
        "image_encoder": parts.image_encoder,
        "text_encoder": parts.text_encoder,
    }


def _to(device: str, parts: VideoParts) -> VideoParts:
    for module in (parts.image_unet, *_modules(parts).values()):
        module.to(device)
    return parts


def _save_video(parts: VideoParts, folder: Path) -> None:
    state = {
        f"{name}.{key}": value
        for name, module in _modules(parts).items()
        for key, value in module.state_dict().items()
    }
    save_tensors(folder / "parts.safetensors", state)


def _load_video(root: Path, stage: str) -> VideoParts:
    parts = _new_video(root)
    state = load_file(_existing(root / stage / "parts.safetensors"))
    for name, module in _modules(parts).items():
        prefix = name + "."
        module.load_state_dict(
            {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        )
    return parts


def _tokenizer(root: Path) -> CLIPTokenizer:
    return architecture.write_tokenizer(root / "tokenizer")


def _vae(root: Path, stage: str = "autoencoder") -> AutoencoderTiny:
    vae = AutoencoderTiny.from_pretrained(_existing(root / stage / "vae"))
    return vae.to(memory_format=torch.channels_last).eval()


def _frame_pool(root: Path, name: str) -> LatentPool:
    return LatentPool(**load_file(_existing(root / "pools" / f"{name}.safetensors")))


def _video_pool(root: Path, name: str) -> VideoPool:
    return VideoPool(**load_file(_existing(root / "pools" / f"{name}.safetensors")))


def _existing(path: Path) -> Path:
    if not path.exists():
        raise MagicVideoError(f"{path} is missing; train the stages in their order: {', '.join(ALL_STAGES)}")
    return path
