"""Batches of clips and images, and their loss: all drawn from (seed, step), so that runs can be resumed."""

from collections.abc import Sequence
from typing import Protocol

import torch

from magicvideo.errors import MagicVideoError
from magicvideo.noise_prior import lean_noise, noise_lean
from magicvideo.training.clips import EncodedClip
from magicvideo.training.denoiser import Denoiser, DenoiserInputs
from magicvideo.training.diffusion import add_noise
from magicvideo.training.loop import step_rng, torch_generator
from magicvideo.training.objective import check_prediction_type, denoising_loss
from magicvideo.training.recipe import DiffusionRecipe, DropoutRecipe

NO_DROPOUT = DropoutRecipe(text=0, image=0, both=0)


class ClipPool(Protocol):
    """Encoded clips by index."""

    def __len__(self) -> int:
        """Return the number of clips."""

    def __getitem__(self, index: int) -> EncodedClip:
        """Return one clip."""


class Batches:
    """The denoising loss of joint image-video batches.

    A batch of clips holds ``frames_per_step`` frames of each at their true positions, one of each equal stretch
    of the clip. A batch of images, ``image_ratio`` of all, holds single frames, as videos of one frame or past
    the motion modules. Images go without ControlNet, for its condition would be the very image to be made; while
    a ControlNet is trained, so do the reference frames of clips: only other frames than the reference are made. The
    noise of clips leans to the opening frame as far as sampling does.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        recipe: DiffusionRecipe,
        clips: ClipPool,
        images: ClipPool | None = None,
        *,
        seed: int,
        dropout: DropoutRecipe | None = None,
    ) -> None:
        """Take a resolved recipe; ``images`` are single-frame clips, None takes frames of ``clips``.

        Raises:
            MagicVideoError: fewer frames in a clip than a step needs, or a scheduler that training does not know.
        """
        self.denoiser, self.recipe, self.clips, self.seed = denoiser, recipe, clips, seed
        self.images = clips if images is None else images
        self.dropout = dropout or recipe.dropout
        scheduler = denoiser.parts.scheduler
        self.prediction_type = check_prediction_type(scheduler.config["prediction_type"])
        self.alphas = scheduler.alphas_cumprod
        self.lean = noise_lean(recipe.prior_strength, self.alphas)
        self.first = 1 if "controlnet" in recipe.groups else 0
        available = len(clips[0].latents) - self.first
        self.num_frames = 1 if recipe.part == "t2i" else recipe.frames_per_step or available
        if not 1 <= self.num_frames <= available:
            raise MagicVideoError(
                f"a step needs {max(self.num_frames, 1)} frames of a clip, and {available} can be had; lower "
                f"frames_per_step or raise data.frames"
            )
        self.stretch = available // self.num_frames

    def is_image(self, step: int) -> bool:
        """Return whether the batch of ``step`` holds images."""
        return self.recipe.part == "t2i" or step_rng(self.seed, step).random() < self.recipe.image_ratio

    def loss(self, step: int) -> torch.Tensor:
        """Return the loss of one batch, a function of ``(seed, step)`` and the weights alone."""
        image = self.is_image(step)
        rng = step_rng(self.seed, step)
        rng.random()  # the draw that is_image made
        generator = torch_generator(rng)
        clips, frames = self._draw_images(generator) if image else self._draw_clips(generator)
        clean = self._stack([clip.latents for clip in clips], frames)
        degraded = [clip.start for clip in clips if clip.start is not None]
        start = self._stack(degraded, frames) if degraded else clean
        noise = self._noise(clean.shape, generator)
        if self.lean and not image:
            opening = self._stack([clip.latents for clip in clips], torch.zeros_like(frames[:, :1]))
            noise = lean_noise(noise, opening, self.lean)
        timesteps = torch.randint(self.highest, (len(clips),), generator=generator)
        alphas = self.alphas[timesteps]
        text, keep = self._dropped(len(clips), generator)
        inputs = DenoiserInputs(
            noisy=self._to_device(add_noise(start, noise, alphas)[0]),
            timesteps=self._to_device(timesteps),
            captions=[clip.caption if kept else "" for clip, kept in zip(clips, text.tolist(), strict=True)],
            references=torch.stack([clip.reference for clip in clips]),
            keep_image=keep,
            positions=self._to_device(torch.zeros_like(frames) if image else frames),
            motion=not (image and (self.recipe.part == "t2i" or self.recipe.bypass_motion_for_images)),
            controlnet=self.recipe.controlnet and not image,
        )
        predicted = self.denoiser(inputs)
        clean = self._to_device(clean)
        return denoising_loss(
            predicted,
            clean,
            self._to_device(start) if degraded else clean,
            self._to_device(noise),
            self._to_device(alphas),
            self.prediction_type,
            self.recipe.min_snr_gamma,
        )

    @property
    def highest(self) -> int:
        """Return how many timesteps are drawn from, counted from the least noisy: V2V never sees more noise."""
        share = self.recipe.strength if self.recipe.part == "v2v" and self.recipe.strength else 1.0
        return max(1, int(share * len(self.alphas)))

    def _draw_clips(self, generator: torch.Generator) -> tuple[list[EncodedClip], torch.Tensor]:
        which = torch.randint(len(self.clips), (self.recipe.batch_size,), generator=generator)
        inside = torch.randint(self.stretch, (self.num_frames,), generator=generator)
        frames = self.first + torch.arange(self.num_frames) * self.stretch + inside
        return [self.clips[index] for index in which.tolist()], frames.expand(len(which), -1)

    def _draw_images(self, generator: torch.Generator) -> tuple[list[EncodedClip], torch.Tensor]:
        count = self.recipe.image_batch_size or self.recipe.batch_size * self.num_frames
        which = torch.randint(len(self.images), (count,), generator=generator)
        clips = [self.images[index] for index in which.tolist()]
        lengths = torch.tensor([len(clip.latents) for clip in clips])
        return clips, (torch.rand(count, generator=generator) * lengths).long()[:, None]

    @staticmethod
    def _stack(latents: Sequence[torch.Tensor], frames: torch.Tensor) -> torch.Tensor:
        """Take ``frames`` ``(B, F)`` of ``(T, C, h, w)`` each: ``(B, C, F, h, w)`` float32."""
        taken = [part[which] for part, which in zip(latents, frames, strict=True)]
        return torch.stack(taken).float().transpose(1, 2)

    def _noise(self, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
        noise = torch.randn(shape, generator=generator)
        share = self.recipe.shared_noise
        if not share or shape[2] == 1:
            return noise
        common = torch.randn((*shape[:2], 1, *shape[3:]), generator=generator)
        return share**0.5 * common + (1 - share) ** 0.5 * noise

    def _dropped(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return who keeps the text and who keeps the image, ``(B,)`` bool each."""
        draw, chance = torch.rand(count, generator=generator), self.dropout
        text = draw < chance.text
        image = (draw >= chance.text) & (draw < chance.text + chance.image)
        both = (draw >= chance.text + chance.image) & (draw < chance.text + chance.image + chance.both)
        return ~(text | both), ~(image | both)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.denoiser.device)
