"""Learning from preferences: a low-rank adapter tuned by Diffusion-DPO, or by one of its two simpler baselines.

Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908) rewards a model for denoising the winner of a pair better, and
the loser worse, than a frozen reference does. The reference is the same model with its adapter switched off.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from magicvideo.errors import MagicVideoError
from magicvideo.lora import AdapterStages
from magicvideo.pipeline import MagicVideoPipeline
from magicvideo.training.adapter import adapter_off, add_adapter, save_adapter
from magicvideo.training.diffusion import add_noise
from magicvideo.training.loop import TrainConfig, step_rng, torch_generator, train, write_json
from magicvideo.training.objective import PredictionType, check_prediction_type
from magicvideo.training.preference_data import PreferencePair, read_preferences, set_digest
from magicvideo.training.preference_model import PreferenceModel, load_model

Method = Literal["dpo", "reward-weighted", "sft"]
Targets = Literal["attention", "all"]
Layers = Literal["spatial", "spatial+motion"]

ADAPTER = "adapter"
RUN_FILE = "training.json"
MONITOR_BATCHES, MONITOR_EVERY = 4, 25


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """How a preference set tunes a checkpoint.

    Attributes:
        checkpoint: what is tuned, and the reference: a preset, a folder that save_pretrained wrote, or a hub id.
        method: ``dpo``; ``sft`` trains on the winners alone; ``reward-weighted`` on all files, each weighted by
            ``exp(reward / temperature)``, its reward being the share of its pairs that it won.
        stages: ``t2i`` tunes text-to-image alone, ``all`` the spatial layers that all stages share.
        layers: ``spatial+motion`` tunes I2V's motion modules too, which takes videos.
        targets: ``attention``, or ``all`` linear and convolutional layers of the blocks.
        rank: of the adapter.
        beta: strength of the bond to the reference, in the convention of Salesforce's published code (see
            ``diffusion_dpo_loss``); they use 2000 to 5000.
        label_smoothing: chance that a label is wrong (conservative DPO).
        winner_penalty: lambda of DPO-Positive; above 0 it holds the model to denoising winners as well as before.
        temperature: of ``reward-weighted``.
        shuffle_labels: draw winner and loser of each pair anew by a fair coin: the control that must not help.
        lowest_timestep: share of the noise levels, from the clean end, that are never drawn.
        precision: of forward passes; weights and losses are float32.
    """

    checkpoint: str = "sprites"
    method: Method = "dpo"
    stages: AdapterStages = "t2i"
    layers: Layers = "spatial"
    targets: Targets = "attention"
    rank: int = 8
    beta: float = 5000.0
    label_smoothing: float = 0.0
    winner_penalty: float = 0.0
    temperature: float = 0.5
    shuffle_labels: bool = False
    lowest_timestep: float = 0.0
    steps: int = 400
    batch_size: int = 4
    learning_rate: float = 1e-4
    warmup: int = 20
    ema_decay: float = 0.99
    save_every: int = 100
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (
            ("method", Method),
            ("stages", AdapterStages),
            ("layers", Layers),
            ("targets", Targets),
            ("precision", Literal["float32", "bfloat16"]),
        ):
            if getattr(self, name) not in get_args(kind):
                raise MagicVideoError(
                    f"unknown {name} {getattr(self, name)!r}; known: {', '.join(get_args(kind))}"
                )
        for name in (
            "rank",
            "beta",
            "temperature",
            "steps",
            "batch_size",
            "learning_rate",
            "warmup",
            "save_every",
        ):
            if not getattr(self, name) > 0:
                raise MagicVideoError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 0.5:
            raise MagicVideoError(
                f"label_smoothing must be at least 0 and below 0.5, got {self.label_smoothing}"
            )
        if not self.winner_penalty >= 0:
            raise MagicVideoError(f"winner_penalty must be at least 0, got {self.winner_penalty}")
        if not 0 <= self.lowest_timestep < 1:
            raise MagicVideoError(
                f"lowest_timestep must be at least 0 and below 1, got {self.lowest_timestep}"
            )
        if self.layers != "spatial" and self.stages == "t2i":
            raise MagicVideoError("layers: text-to-image has no motion modules; tune them with stages 'all'")

    def train_config(self) -> TrainConfig:
        """Return what the loop needs to know."""
        return TrainConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            cooldown=0.0,
            weight_decay=0.0,
            betas=(0.9, 0.999),
            ema_decay=self.ema_decay,
            autocast=self.precision == "bfloat16",
            seed=self.seed,
            save_every=self.save_every,
            log_every=10,
        )


def preference_config(values: Mapping[str, Any]) -> PreferenceConfig:
    """Return the configuration of plain values, such as a command line gives.

    Raises:
        MagicVideoError: an unknown option, or a value of another type or out of range.
    """
    known = {item.name: item for item in fields(PreferenceConfig)}
    for name, value in values.items():
        if name not in known:
            raise MagicVideoError(f"unknown option {name!r} of tuning; known: {', '.join(known)}")
        kind = type(known[name].default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise MagicVideoError(f"{name} must be of type {kind.__name__}, got {value!r}")
    return PreferenceConfig(**values)


@dataclass(frozen=True, kw_only=True)
class DenoisingErrors:
    """Errors of model and reference, ``(B,)`` each, on winners and losers noised alike."""

    winner: Tensor
    loser: Tensor
    reference_winner: Tensor
    reference_loser: Tensor

    def margin(self, beta: float, winner_penalty: float = 0.0) -> Tensor:
        """Return the argument of the sigmoid ``(B,)``: above 0 where the model takes the winner's side."""
        own, reference = self.winner - self.loser, self.reference_winner - self.reference_loser
        lost = (self.winner - self.reference_winner).clamp_min(0)
        return -0.5 * beta * (own - reference + winner_penalty * lost)


def diffusion_dpo_loss(
    errors: DenoisingErrors,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    winner_penalty: float = 0.0,
    probability: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the Diffusion-DPO loss (Wallace et al. 2023, equation 14) of a batch, ln 2 where nothing is learnt yet.

    With ``z = -k beta ((e(w) - e(l)) - (e_ref(w) - e_ref(l)))`` and ``k = 0.5``:
    ``-p log sigmoid(z) - (1 - p) log sigmoid(-z)``. An error ``e`` is the *mean* over all dimensions of the squared
    difference of prediction and target. That is the convention of the code published with the paper
    (SalesforceAIResearch/DiffusionDPO, where beta is 2000 to 5000); diffusers' research script has ``k = 1``, so the
    same beta binds half as much there. The target is what the model predicts: with velocity prediction the error of
    the noise is weighted by ``SNR + 1``.

    The loss falls even where the winner is denoised worse, as long as the loser is still more so, which is how tuned
    models come to draw neither. ``winner_penalty`` takes ``k beta lambda max(0, e(w) - e_ref(w))`` off z (DPO-Positive,
    Pal et al. 2024, arXiv 2402.13228, equation 3, with errors for log-likelihoods).

    Args:
        errors: of model and reference.
        beta: strength of the bond to the reference.
        label_smoothing: chance that a label is wrong (conservative DPO, Mitchell 2023).
        winner_penalty: lambda; 0 is Diffusion-DPO.
        probability: ``(B,)`` that the winner is preferred; 1 by default.
        weight: ``(B,)`` of the pairs; 1 by default.
    """
    margin = errors.margin(beta, winner_penalty)
    p = torch.ones_like(margin) if probability is None else probability
    p = p * (1 - label_smoothing) + (1 - p) * label_smoothing
    loss = -p * logsigmoid(margin) - (1 - p) * logsigmoid(-margin)
    return (loss if weight is None else weight * loss).mean()


def tune(
    config: PreferenceConfig, preferences: Path, out_dir: Path, *, device: str = "cpu", progress: bool = True
) -> dict[str, object]:
    """Tune an adapter on a preference set; an interrupted run goes on from ``out_dir``.

    Args:
        config: what, how.
        preferences: a folder as ``magicvideo preferences export`` writes it.
        out_dir: gets ``adapter/`` (a LoRA in the format of diffusers, for ``from_pretrained(..., adapter=)``),
            ``curve.jsonl``, ``recipe.json`` and the state to resume from.
        device: of model and batches.
        progress: show bars.

    Returns:
        The recipe with its loss curve; ``monitored`` holds, of pairs of held-out prompts, the loss and the share
        whose winner the tuned model takes the side of.

    Raises:
        MagicVideoError: the checkpoint or the preference set cannot be used, or ``out_dir`` holds another run.
    """
    pairs = read_preferences(preferences, "train")
    held_out = read_preferences(preferences, "test")
    pipe = MagicVideoPipeline.from_pretrained(config.checkpoint, device=device)
    _claim(out_dir, config, preferences, pipe)
    motion = config.layers == "spatial+motion"
    model = load_model(
        pipe,
        pairs + held_out,
        stages=config.stages,
        motion=motion,
        folder=out_dir / "latents",
        progress=progress,
    )
    parameters = add_adapter(
        model.unet, rank=config.rank, targets=config.targets, motion=motion, seed=config.seed
    )
    objective = PreferenceObjective(
        model, shuffled(pairs, config.seed) if config.shuffle_labels else pairs, config
    )
    check = PreferenceObjective(model, held_out, replace(config, method="dpo", seed=config.seed + 1))
    recipe = train(
        f"preference ({config.method})",
        parameters,
        objective.loss,
        config.train_config(),
        out_dir,
        monitor=lambda step: check.agreement(MONITOR_BATCHES),
        monitor_every=max(MONITOR_EVERY, config.steps // 4),
        progress=progress,
    )
    settings = {"stages": config.stages, "trained_on": pipe.digest(), "preferences": set_digest(preferences)}
    save_adapter(model.unet, out_dir / ADAPTER, settings)
    write_json(out_dir / "recipe.json", recipe | {"preference": asdict(config)} | settings)
    return recipe


def shuffled(pairs: list[PreferencePair], seed: int) -> list[PreferencePair]:
    """Return the pairs with winner and loser exchanged in about half of them, drawn from ``seed``."""
    swap = step_rng(seed, 2**31).random(len(pairs)) < 0.5
    return [
        replace(pair, winner=pair.loser, loser=pair.winner) if swapped else pair
        for pair, swapped in zip(pairs, swap, strict=True)
    ]


def rewards(pairs: list[PreferencePair]) -> dict[Path, float]:
    """Return the share of its pairs that each file won, by weight: 0 to 1."""
    won: dict[Path, float] = {}
    fought: dict[Path, float] = {}
    for pair in pairs:
        for path, share in ((pair.winner, pair.probability), (pair.loser, 1 - pair.probability)):
            won[path] = won.get(path, 0.0) + pair.weight * share
            fought[path] = fought.get(path, 0.0) + pair.weight
    return {path: won[path] / fought[path] for path in fought}


class PreferenceObjective:
    """The loss of a batch of pairs, or of files, a function of ``(seed, step)`` and the weights alone."""

    def __init__(self, model: PreferenceModel, pairs: list[PreferencePair], config: PreferenceConfig) -> None:
        """Take the model with its adapter, and what to learn from."""
        self.model, self.pairs, self.config = model, pairs, config
        scheduler = model.scheduler
        self.prediction_type: PredictionType = check_prediction_type(scheduler.config["prediction_type"])
        self.alphas = scheduler.alphas_cumprod
        self.files = self._weighted_files()

    def loss(self, step: int) -> Tensor:
        """Return the loss of one batch."""
        generator = torch_generator(step_rng(self.config.seed, step))
        if self.config.method != "dpo":
            return self._weighted_error(generator)
        errors, chosen = self._errors(generator)
        device = errors.winner.device
        return diffusion_dpo_loss(
            errors,
            beta=self.config.beta,
            label_smoothing=self.config.label_smoothing,
            winner_penalty=self.config.winner_penalty,
            probability=torch.tensor([pair.probability for pair in chosen], device=device),
            weight=torch.tensor([pair.weight for pair in chosen], device=device),
        )

    def agreement(self, batches: int) -> dict[str, float]:
        """Return loss and share of pairs whose winner the model takes the side of, over fixed draws."""
        losses, sides = [], []
        for step in range(batches):
            errors, _ = self._errors(torch_generator(step_rng(self.config.seed, step)))
            losses.append(float(diffusion_dpo_loss(errors, beta=self.config.beta)))
            sides.append((errors.margin(self.config.beta) > 0).float().mean().item())
        return {
            "held_out_loss": round(sum(losses) / batches, 6),
            "held_out_agreement": round(sum(sides) / batches, 4),
        }

    def _errors(self, generator: torch.Generator) -> tuple[DenoisingErrors, list[PreferencePair]]:
        """Return the errors of a batch of pairs: winner and loser at the same noise level, with the same noise."""
        which = torch.randint(len(self.pairs), (self.config.batch_size,), generator=generator).tolist()
        chosen = [self.pairs[index] for index in which]
        files = [pair.winner for pair in chosen] + [pair.loser for pair in chosen]
        denoise = self._prepare(files, generator, repeat=2)
        own = denoise()
        with torch.no_grad(), adapter_off(self.model.unet):
            reference = denoise()
        winner, loser = own.chunk(2)
        reference_winner, reference_loser = reference.chunk(2)
        errors = DenoisingErrors(
            winner=winner, loser=loser, reference_winner=reference_winner, reference_loser=reference_loser
        )
        return errors, chosen

    def _weighted_error(self, generator: torch.Generator) -> Tensor:
        names = list(self.files)
        which = torch.randint(len(names), (2 * self.config.batch_size,), generator=generator).tolist()
        files = [names[index] for index in which]
        errors = self._prepare(files, generator, repeat=1)()
        weights = torch.tensor([self.files[path] for path in files], device=errors.device)
        return (weights * errors).mean()

    def _prepare(self, files: list[Path], generator: torch.Generator, *, repeat: int) -> Callable[[], Tensor]:
        """Noise the files' latents, the same way in each of ``repeat`` parts; return what measures the error."""
        clean = self.model.latents(files)
        count = len(files) // repeat
        noise = torch.randn((count, *clean.shape[1:]), generator=generator)
        lowest = int(self.config.lowest_timestep * len(self.alphas))
        timesteps = torch.randint(lowest, len(self.alphas), (count,), generator=generator)
        noise, timesteps = torch.cat([noise] * repeat), timesteps.repeat(repeat)
        noisy, velocity = add_noise(clean, noise, self.alphas[timesteps])
        target = noise if self.prediction_type == "epsilon" else velocity
        device = self.model.device
        noisy, timesteps, target = noisy.to(device), timesteps.to(device), target.to(device)

        def measure() -> Tensor:
            predicted = self.model.predict(noisy, timesteps, files)
            return (predicted - target).square().flatten(1).mean(1)

        return measure

    def _weighted_files(self) -> dict[Path, float]:
        """Return the files that ``sft`` and ``reward-weighted`` train on, with weights of mean 1."""
        if self.config.method == "sft":
            return {pair.winner: 1.0 for pair in self.pairs}
        reward = rewards(self.pairs)
        tilted = {path: value / self.config.temperature for path, value in reward.items()}
        weights = torch.tensor(list(tilted.values())).softmax(0) * len(tilted)
        return dict(zip(tilted, weights.tolist(), strict=True))


def _claim(out_dir: Path, config: PreferenceConfig, preferences: Path, pipe: MagicVideoPipeline) -> None:
    """Write down what this folder's run is, or refuse to go on with another one's."""
    out_dir.mkdir(parents=True, exist_ok=True)
    run = asdict(config) | {"checkpoint": pipe.digest(), "preferences": set_digest(preferences)}
    path = out_dir / RUN_FILE
    if not path.exists():
        write_json(path, run)
        return
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    changed = sorted(key for key in run.keys() | before.keys() if run.get(key) != before.get(key))
    if changed:
        raise MagicVideoError(
            f"{out_dir} holds another run, which differs in {', '.join(changed)}; give an empty folder, or the "
            f"same options and preference set to go on with it"
        )
