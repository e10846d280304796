"""What preference tuning denoises with: text-to-image on single frames, or I2V with all that conditions it on clips."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from magicvideo.backbone import Backbone, bare_backbone
from magicvideo.errors import MagicVideoError
from magicvideo.lora import AdapterStages
from magicvideo.pipeline import MagicVideoPipeline
from magicvideo.training.clips import EncodedClip, EncodedClips, encode_clips
from magicvideo.training.denoiser import Denoiser, DenoiserInputs, DenoiserParts
from magicvideo.training.diffusion import tokenize
from magicvideo.training.preference_data import (
    PreferenceClips,
    PreferencePair,
    are_images,
    check_made_here,
    files_of,
    keyframe_stride,
)


class PreferenceModel(Protocol):
    """A denoiser over the files of a preference set."""

    unet: Backbone
    scheduler: DDIMScheduler

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def latents(self, files: Sequence[Path]) -> Tensor:
        """Return clean latents ``(B, C, F, h, w)`` float32 on the CPU; images have one frame."""

    def predict(self, noisy: Tensor, timesteps: Tensor, files: Sequence[Path]) -> Tensor:
        """Return the prediction ``(B, C, F, h, w)`` float32 for noised latents of ``files``."""


def load_model(
    pipe: MagicVideoPipeline,
    pairs: list[PreferencePair],
    *,
    stages: AdapterStages,
    motion: bool,
    folder: Path,
    progress: bool = True,
) -> PreferenceModel:
    """Return what the adapter is hung into, with the latents of all files; images and ``t2i`` take single frames.

    Args:
        pipe: the checkpoint.
        pairs: of all splits.
        stages: ``t2i`` looks at the opening frame of videos alone.
        motion: whether motion modules are tuned.
        folder: keeps the latents.
        progress: show a bar.

    Raises:
        MagicVideoError: files of a foreign system, of another length than the checkpoint's, or images where
            motion modules are to be tuned.
    """
    files, config = files_of(pairs), pipe.config
    images = are_images(files)
    if images and motion:
        raise MagicVideoError("motion modules learn nothing from images; give a preference set of videos")
    check_made_here(files, config.t2i.size if images else config.v2v.size)
    single = images or stages == "t2i"
    if config.t2i.model is not None and single:
        raise MagicVideoError(
            f"text-to-image of this checkpoint is another pipeline ({config.t2i.model}), whose latents are not "
            f"tuned here; tune stages 'all' on videos"
        )
    clips = PreferenceClips.of(
        files,
        size=config.t2i.size if single else config.i2v.size,
        num_frames=1 if single else config.i2v.num_frames,
        stride=1 if single else keyframe_stride(files, config.i2v.num_frames, config.vfi.factor),
    )
    encoded = encode_clips(clips, pipe.components.vae, folder, progress=progress)
    places = {path: index for index, (path, _) in enumerate(files)}
    return (ImageModel if single else VideoModel)(pipe, encoded, places)


class ImageModel:
    """Text-to-image on a copy of the backbone without image attentions: the opening frames of all files."""

    def __init__(self, pipe: MagicVideoPipeline, clips: EncodedClips, places: dict[Path, int]) -> None:
        """Encode texts once."""
        parts = pipe.components
        self.unet = bare_backbone(parts.t2i_unet or parts.unet).to(pipe.device).eval()
        self.scheduler, self.places = parts.scheduler, places
        rows = [clips[index] for index in range(len(clips))]
        self._latents = torch.stack([row.latents[:1] for row in rows])
        texts = list(dict.fromkeys(row.caption for row in rows))
        with torch.no_grad():
            tokens = tokenize(parts.tokenizer, texts).to(pipe.device)
            self._states = parts.text_encoder(tokens).last_hidden_state
        self._text_of = torch.tensor([texts.index(row.caption) for row in rows])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._states.device

    def latents(self, files: Sequence[Path]) -> Tensor:
        """Return ``(B, C, 1, h, w)``."""
        return self._latents[[self.places[path] for path in files]].float().transpose(1, 2)

    def predict(self, noisy: Tensor, timesteps: Tensor, files: Sequence[Path]) -> Tensor:
        """Return the prediction of the image model, as text-to-image calls it."""
        states = self._states[self._text_of[[self.places[path] for path in files]].to(self.device)]
        return self.unet(noisy[:, :, 0], timesteps, states).sample.float().unsqueeze(2)


class VideoModel:
    """I2V with text, reference image and ControlNet: the keyframes of all files."""

    def __init__(self, pipe: MagicVideoPipeline, clips: EncodedClips, places: dict[Path, int]) -> None:
        """Take the stage's modules as they are; the latents stay on disk."""
        parts = DenoiserParts.of(pipe, "i2v")
        self.unet, self.scheduler, self.clips, self.places = parts.video_unet, parts.scheduler, clips, places
        self._denoiser = Denoiser(parts, appearance=True)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._denoiser.device

    def latents(self, files: Sequence[Path]) -> Tensor:
        """Return ``(B, C, F, h, w)``."""
        return torch.stack([clip.latents.float() for clip in self._clips(files)]).transpose(1, 2)

    def predict(self, noisy: Tensor, timesteps: Tensor, files: Sequence[Path]) -> Tensor:
        """Return the prediction of I2V given each clip's own opening frame."""
        clips, (count, _, frames) = self._clips(files), noisy.shape[:3]
        inputs = DenoiserInputs(
            noisy=noisy,
            timesteps=timesteps,
            captions=[clip.caption for clip in clips],
            references=torch.stack([clip.reference for clip in clips]),
            keep_image=torch.ones(count, dtype=torch.bool),
            positions=torch.arange(frames, device=self.device).expand(count, -1),
            motion=True,
            controlnet=True,
        )
        try:
            return self._denoiser(inputs)
        finally:
            self._denoiser.release()

    def _clips(self, files: Sequence[Path]) -> list[EncodedClip]:
        return [self.clips[self.places[path]] for path in files]
