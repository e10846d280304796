"""One training loop for every part: AdamW or Muon, averaged weights, exact resume, and a recipe written beside them."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from magicvideo.errors import MagicVideoError
from magicvideo.training.optimizers import build_optimizers
from magicvideo.training.speed import MatmulAttention

Params = Mapping[str, torch.nn.Parameter]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a part is trained; stored with its weights."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    warmup: int = 100
    cooldown: float = 0.3  # share of the steps over which the rate falls linearly to zero
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    autocast: bool = True  # forward passes in bfloat16, weights and optimiser in float32
    save_every: int = 500
    log_every: int = 50
    accumulation: int = 1  # batches whose gradients are averaged in one step
    optimizer: Literal["adamw", "muon"] = "adamw"  # see `magicvideo.training.optimizers`

    def rate(self, step: int) -> float:
        """Return the factor on the learning rate at ``step``: linear warm-up, plateau, linear fall."""
        left = (self.steps - step) / max(1.0, self.cooldown * self.steps)
        return min(1.0, (step + 1) / self.warmup, left)


def train(
    name: str,
    parameters: Params,
    loss_of: Callable[[int], torch.Tensor],
    config: TrainConfig,
    out_dir: Path,
    *,
    validate: Callable[[], dict[str, float]] | None = None,
    monitor: Callable[[int], dict[str, float]] | None = None,
    monitor_every: int = 500,
    progress: bool = True,
) -> dict[str, object]:
    """Minimise ``loss_of(step)`` over ``parameters`` and leave their averaged weights in place.

    ``loss_of`` must draw all randomness from ``(config.seed, step)`` (see ``step_rng``): then a run that was
    interrupted and resumed from ``out_dir`` equals one that was not. With ``config.accumulation`` above one it
    is asked for batches ``step * accumulation`` to ``(step + 1) * accumulation - 1``.

    ``out_dir`` gets ``curve.jsonl`` (a line a logged or monitored step) and ``recipe.json`` at the end.

    Args:
        name: what is trained; heads the progress bar and the recipe.
        parameters: named tensors to train; on return they hold the exponential average.
        validate: called at the end on the averaged weights; its figures go into the recipe.
        monitor: called with the number of steps done, on the averaged weights and without gradients, every
            ``monitor_every`` steps and after the last; its figures go into the curve.

    Returns:
        The recipe: configuration, loss curve, seconds, validation figures.

    Raises:
        MagicVideoError: the loss is not finite, or ``out_dir`` holds a run of another configuration.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    run = _Run(name, dict(parameters), config, out_dir)
    run.resume()
    bar = tqdm(
        range(run.step, config.steps),
        initial=run.step,
        total=config.steps,
        desc=name,
        disable=not progress,
        mininterval=5,
    )
    for step in bar:
        loss = run.update(step, loss_of)
        last = step == config.steps - 1
        if step % config.log_every == 0 or last:
            bar.set_postfix(loss=f"{loss:.4f}")
        if monitor is not None and ((step + 1) % monitor_every == 0 or last):
            with run.averaged(), torch.no_grad():
                run.figures.append({"step": step + 1, **monitor(step + 1)})
            run.write_curve()
        if (step + 1) % config.save_every == 0 or last:
            run.save()
    run.use_average()
    recipe = run.recipe()
    if validate is not None:
        with torch.no_grad():
            recipe["validation"] = validate()
    write_json(out_dir / "recipe.json", recipe)
    return recipe


def step_rng(seed: int, step: int) -> np.random.Generator:
    """Return the random source of one training step."""
    return np.random.default_rng([seed, step])


def torch_generator(rng: np.random.Generator) -> torch.Generator:
    """Return a CPU generator of torch seeded from ``rng``."""
    return torch.Generator().manual_seed(int(rng.integers(2**62)))


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as JSON, whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write ``tensors`` as safetensors, whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    save_file({key: value.detach().contiguous() for key, value in tensors.items()}, temporary)
    os.replace(temporary, path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Run:
    """State of one training: weights, their average, the optimiser, the curve."""

    def __init__(
        self, name: str, parameters: dict[str, torch.nn.Parameter], config: TrainConfig, out_dir: Path
    ) -> None:
        self.name, self.parameters, self.config, self.out_dir = name, parameters, config, out_dir
        self.average = {key: value.detach().clone() for key, value in parameters.items()}
        self.optimizers = build_optimizers(
            parameters,
            config.optimizer,
            learning_rate=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self._clear()  # of a run that an error ended between two batches
        self.step = 0
        self.seconds = 0.0
        self.curve: list[tuple[int, float]] = []
        self.figures: list[dict[str, float]] = []  # of the monitor
        self._recent: list[float] = []

    def update(self, step: int, loss_of: Callable[[int], torch.Tensor]) -> float:
        start = time.perf_counter()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * self.config.rate(step)
        batches = self.config.accumulation
        value = (
            sum(self._backward(step, step * batches + index, loss_of) for index in range(batches)) / batches
        )
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self._clear()
        self._average(step)
        self.step = step + 1
        self.seconds += time.perf_counter() - start
        self._recent.append(value)
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            self.curve.append((self.step, round(float(np.mean(self._recent)), 6)))
            self._recent.clear()
        return value

    def _clear(self) -> None:
        for value in self.parameters.values():
            value.grad = None

    def _backward(self, step: int, batch: int, loss_of: Callable[[int], torch.Tensor]) -> float:
        """Add one batch's share of the gradient; return its loss."""
        device = next(iter(self.parameters.values())).device.type
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(device, torch.bfloat16, enabled=self.config.autocast))
            if device == "cpu" and self.config.autocast:
                stack.enter_context(MatmulAttention())
            loss = loss_of(batch)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise MagicVideoError(
                f"the loss of {self.name} is {value} at step {step}; lower the learning rate and resume "
                f"from {self.out_dir}"
            )
        (loss / self.config.accumulation).backward()
        return value

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        averages, currents = list(self.average.values()), list(self.parameters.values())
        torch._foreach_lerp_(averages, [value.data for value in currents], 1 - decay)

    @torch.no_grad()
    def use_average(self) -> None:
        for key, value in self.parameters.items():
            value.copy_(self.average[key])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights in place for a while; afterwards training goes on bit for bit."""
        current = {key: value.detach().clone() for key, value in self.parameters.items()}
        self.use_average()
        try:
            yield
        finally:
            with torch.no_grad():
                for key, value in self.parameters.items():
                    value.copy_(current[key])

    def write_curve(self) -> None:
        """Write ``curve.jsonl``: one object a line, ordered by step."""
        rows = [{"step": step, "loss": loss} for step, loss in self.curve] + self.figures
        rows.sort(key=lambda row: row["step"])
        path = self.out_dir / "curve.jsonl"
        temporary = path.with_name(path.name + ".part")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(temporary, path)

    def recipe(self) -> dict[str, object]:
        return {
            "part": self.name,
            "config": asdict(self.config),
            "seconds": round(self.seconds, 1),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "curve": self.curve,
            **({"monitored": self.figures} if self.figures else {}),
        }

    def save(self) -> None:
        """Write the state for ``resume``; the three files change places together, after all are written."""
        state = {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "recipe": json.dumps(self.recipe()),
            "step": self.step,
            "recent": self._recent,
        }
        paths = [
            self.out_dir / name for name in ("weights.safetensors", "average.safetensors", "optimizer.pt")
        ]
        parts = [path.with_name(path.name + ".part") for path in paths]
        for tensors, part in ((self.parameters, parts[0]), (self.average, parts[1])):
            save_file({key: value.detach().contiguous() for key, value in tensors.items()}, part)
        torch.save(state, parts[2])
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path)
        self.write_curve()

    def resume(self) -> None:
        path = self.out_dir / "optimizer.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        recipe = json.loads(state["recipe"])
        # A run written before an option existed did what the option's default does.
        defaults = {item.name: item.default for item in fields(TrainConfig) if item.default is not MISSING}
        if _plain(defaults | recipe["config"]) != _plain(asdict(self.config)):
            raise MagicVideoError(
                f"{self.out_dir} holds a run of {recipe['part']} with another configuration; "
                f"give an empty folder, or the same options to resume it"
            )
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for key, value in load_file(self.out_dir / "weights.safetensors").items():
            self.parameters[key].data.copy_(value)
        for key, value in load_file(self.out_dir / "average.safetensors").items():
            self.average[key].copy_(value)
        self.curve = [(int(step), float(loss)) for step, loss in recipe["curve"]]
        self.figures = recipe.get("monitored", [])
        self.step = int(state["step"])
        self._recent = state["recent"]
        self.seconds = float(recipe["seconds"])


def _plain(values: dict[str, object]) -> object:
    """Return ``values`` as they come back from JSON."""
    return json.loads(json.dumps(values))
