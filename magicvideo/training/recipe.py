"""Training recipes: YAML files that say what is trained, on what, and how; refused whole if one key is wrong."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from magicvideo.errors import MagicVideoError
from magicvideo.training.loop import TrainConfig

Part = Literal["t2i", "i2v", "appearance", "controlnet", "v2v"]
Group = Literal["spatial", "text", "motion", "appearance", "controlnet"]

# What a part trains where its recipe does not say: the paper's division of labour.
TRAINS: dict[Part, tuple[Group, ...]] = {
    "t2i": ("spatial",),
    "i2v": ("motion",),
    "appearance": ("appearance",),
    "controlnet": ("controlnet",),
    "v2v": ("motion",),
}

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=16, multiple_of=8)]


class _Strict(BaseModel):
    """Refuse unknown keys and values of another type: ``"8"`` is no number, ``1`` is no ``true``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataRecipe(_Strict):
    """Where clips come from and how they are cut."""

    source: str = "sprites"  # "sprites", or a folder of videos with captions
    images: str | None = None  # a folder for image batches; None takes single frames of the clips
    clips: Count = 256  # sprites: how many are rendered
    size: Size | None = None  # pixels; None: the checkpoint's size of the stage
    frames: Count | None = None  # of a clip; None: the checkpoint's number of keyframes
    stride: Count | None = None  # between the frames taken; None: 1 for sprites, 4 for videos


class DropoutRecipe(_Strict):
    """Chances that a sample goes without its text, its image, or both, for classifier-free guidance."""

    text: Share = 0.05
    image: Share = 0.05
    both: Share = 0.05


class DegradeRecipe(_Strict):
    """What V2V's input has suffered: size, blur, the autoencoder, latent noise."""

    size: Size | None = None  # pixels it comes from; None: the checkpoint's size of I2V
    blur: Annotated[float, Field(ge=0)] = 0.6  # largest deviation of the Gaussian, in low-resolution pixels
    noise: Annotated[float, Field(ge=0)] = 0.3  # largest deviation of noise on the scaled latents


class ValidationRecipe(_Strict):
    """What is looked at on the way: losses on held-out clips, and a sheet of generated ones."""

    every: Count = 500
    clips: Count = 4  # held out of training
    batches: Count = 8  # with fixed draws, that the validation loss is the mean of
    sheet: Annotated[int, Field(ge=0)] = 2  # rows of the contact sheet; 0 draws none
    prompts: tuple[str, ...] | None = None  # None: captions and reference images of held-out clips
    seed: int = 0


class DiffusionRecipe(_Strict):
    """How one part of the denoiser is trained on top of a checkpoint."""

    part: Part
    checkpoint: str = "sprites"  # a preset, a folder written by save_pretrained, or a hub id
    start: Literal["checkpoint", "scratch"] = "checkpoint"
    trainable: Annotated[tuple[Group, ...], Field(min_length=1)] | None = None  # None: see TRAINS
    data: DataRecipe = DataRecipe()
    appearance: bool = True  # whether the reference image's embedding is given
    controlnet: bool = True  # whether the reference image's pixels are given
    image_ratio: Share = 0.0  # of the batches that are images, as one-frame videos
    bypass_motion_for_images: bool = False
    dropout: DropoutRecipe = DropoutRecipe()
    min_snr_gamma: Annotated[float, Field(gt=0)] | None = None
    shared_noise: Share | None = None  # variance that a clip's frames share; None: as the checkpoint's prior
    prior_strength: Share | None = None  # of the checkpoint's noise prior; None: what it samples with
    strength: Annotated[float, Field(gt=0, le=1)] | None = None  # v2v; None: the checkpoint's
    degrade: DegradeRecipe = DegradeRecipe()
    steps: Count = 1000
    batch_size: Count = 1
    frames_per_step: Count | None = None  # of a clip, at their true positions; None: all
    image_batch_size: Count | None = None  # None: batch_size times the frames of a step
    accumulation: Count = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: tuple[Share, Share] = (0.9, 0.999)
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    warmup: Count = 100
    cooldown: Share = 0.0
    ema_decay: Share = 0.999
    precision: Literal["float32", "bfloat16"] = "float32"  # of forward passes; weights stay in float32
    gradient_checkpointing: bool = False
    seed: int = 0
    save_every: Count = 500
    log_every: Count = 50
    save_checkpoint: bool = True  # the whole pipeline with the trained part in it, beside the part alone
    validation: ValidationRecipe = ValidationRecipe()

    @model_validator(mode="after")
    def _fits_together(self) -> "DiffusionRecipe":
        if self.part == "t2i" and self.start == "scratch":
            raise ValueError("start: t2i cannot start from scratch here (magicvideo train sprites does)")
        if self.part == "t2i" and "motion" in self.groups:
            raise ValueError("trainable: t2i has no motion modules; train them with part i2v or v2v")
        if self.bypass_motion_for_images and self.image_ratio and self.groups == ("motion",):
            raise ValueError(
                "bypass_motion_for_images: image batches would train nothing; add spatial to trainable, "
                "or set image_ratio to 0"
            )
        if "controlnet" in self.groups and (self.image_ratio or not self.controlnet):
            raise ValueError("trainable: controlnet needs controlnet: true and image_ratio: 0")
        if "appearance" in self.groups and not self.appearance:
            raise ValueError("trainable: appearance needs appearance: true")
        if self.dropout.text + self.dropout.image + self.dropout.both > 1:
            raise ValueError("dropout: the three chances must add up to at most 1")
        return self

    @property
    def groups(self) -> tuple[Group, ...]:
        """What is trained."""
        return self.trainable or TRAINS[self.part]

    def train_config(self) -> TrainConfig:
        """Return what the loop needs to know."""
        return TrainConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=self.seed,
            warmup=self.warmup,
            cooldown=self.cooldown,
            weight_decay=self.weight_decay,
            betas=self.betas,
            grad_clip=self.grad_clip,
            ema_decay=self.ema_decay,
            autocast=self.precision == "bfloat16",
            save_every=self.save_every,
            log_every=self.log_every,
            accumulation=self.accumulation,
        )


class GapRecipe(_Strict):
    """Where the interpolator's gaps come from: four frames in a row of each video, at a stride."""

    source: str = "videos"
    size: Annotated[int, Field(ge=32, multiple_of=16)] = 256  # pixels of a crop
    stride: Count = 1


class VFIRecipe(_Strict):
    """How the interpolator's VQ-GAN is trained on videos, on top of a flow that stays as it is."""

    part: Literal["vfi"]
    # Whose interpolator goes on, or the folder of one alone; "published" starts one of published size.
    checkpoint: str = "sprites"
    ema: str | None = None  # EMA-VFI's own file, which a new interpolator stands on
    data: GapRecipe = GapRecipe()
    steps: Count = 1000
    batch_size: Count = 2
    accumulation: Count = 1
    gan_start: Share = 0.8  # share of the steps before the discriminators join
    discriminator_width: Count = 12
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    betas: tuple[Share, Share] = (0.9, 0.99)
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    warmup: Count = 100
    cooldown: Share = 0.3
    ema_decay: Share = 0.999
    seed: int = 0
    validation_seed: int = 0
    validate_every: Count = 500
    save_every: Count = 500
    log_every: Count = 50

    def train_config(self) -> TrainConfig:
        """Return what the loop needs to know; positions in bfloat16 would be off by whole pixels."""
        keys = (
            "steps",
            "batch_size",
            "accumulation",
            "learning_rate",
            "weight_decay",
            "betas",
            "grad_clip",
            "warmup",
            "cooldown",
            "ema_decay",
            "seed",
            "save_every",
            "log_every",
        )
        return TrainConfig(**{key: getattr(self, key) for key in keys}, autocast=False)


Recipe = DiffusionRecipe | VFIRecipe


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-4`` as a text; people who write a learning rate mean the number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by file name."""
    folder = Path(str(resources.files("magicvideo") / "training" / "recipes"))
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """Return the path of a recipe: a file, or the name of a shipped one.

    Raises:
        MagicVideoError: there is neither; the shipped ones are listed.
    """
    shipped = shipped_recipes()
    if Path(name).is_file():
        return Path(name)
    if name in shipped:
        return shipped[name]
    raise MagicVideoError(f"there is no recipe {name}; give a YAML file or one of {', '.join(shipped)}")


def read_recipe(path: Path, **changes: Any) -> Recipe:
    """Read a recipe; ``changes`` (those that are not None) take the place of what the file says.

    Args:
        path: the YAML file.
        changes: values by key, with ``__`` for a dot: ``data__size=256``.

    Raises:
        MagicVideoError: the file cannot be read, or one of its keys is unknown, missing or wrong: the sentence
            names file, key and what is allowed there.
    """
    try:
        values = yaml.load(path.read_text(), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise MagicVideoError(f"cannot read the recipe {path}: {error}") from error
    except yaml.YAMLError as error:
        raise MagicVideoError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise MagicVideoError(f"{path} must be a mapping of keys to values, with at least the key part")
    return make_recipe(values, where=str(path), **changes)


def parse_setting(text: str) -> tuple[str, Any]:
    """Return key and value of ``data.size=256`` as ``read_recipe`` takes them; the value is YAML.

    Raises:
        MagicVideoError: there is no ``=`` in it, or no YAML behind it.
    """
    key, equals, value = text.partition("=")
    try:
        if equals and key.strip():
            return key.strip().replace(".", "__"), yaml.load(value, _Loader)
    except yaml.YAMLError:
        pass
    raise MagicVideoError(f"cannot read the setting {text!r}; give KEY=VALUE, for example data.size=256")


def make_recipe(values: dict[str, Any], *, where: str = "the recipe", **changes: Any) -> Recipe:
    """Return the recipe of plain ``values``; see ``read_recipe``.

    Raises:
        MagicVideoError: a key is unknown, missing or wrong.
    """
    values = json.loads(json.dumps(values, default=str))
    for key, value in changes.items():
        *groups, last = key.split("__")
        target: Any = values
        for group in groups:
            target = target.setdefault(group, {})
        if value is not None and isinstance(target, dict):
            target[last] = value
    model: type[DiffusionRecipe | VFIRecipe] = VFIRecipe if values.get("part") == "vfi" else DiffusionRecipe
    try:
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise MagicVideoError(f"{where}: {_sentence(error, model)}") from error


def _sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """Say what is wrong with the first key at fault."""
    first = error.errors(include_url=False)[0]
    place = [str(item) for item in first["loc"]]
    key, kind = ".".join(place), first["type"]
    if kind == "extra_forbidden":
        return f"unknown key {key}; allowed here: {', '.join(_keys_beside(place, model))}"
    if kind == "missing":
        return f"the key {key} is missing; allowed: {', '.join(get_args(Part))}, vfi"
    if kind == "value_error":
        return first["msg"].removeprefix("Value error, ")
    expected = first["msg"].replace("Input should be", "must be", 1)
    return f"{key} {expected}, got {json.dumps(first['input'], default=str)}"


def _keys_beside(place: list[str], model: Any) -> list[str]:
    for name in place[:-1]:
        model = model.model_fields[name].annotation
    return list(model.model_fields)
