"""Agreement of videos and prompts: the CLIP score of frames and the video-text score of whole clips."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from metrics.clip_model import ClipModel, unknown_words
from metrics.embedded import VIDEO_WEIGHTS, known_words
from metrics.features import EmbeddedExtractor
from metrics.functional.text_video import clip_score


class _PromptScore(Metric):
    """Hold one value per video and one text embedding per prompt."""

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    scores: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self._texts: dict[str, Tensor] = {}

    def update(self, videos: Tensor | Sequence[Tensor], prompts: Sequence[str]) -> None:
        """Add videos.

        Args:
            videos: ``(B, T, 3, H, W)`` uint8, or B tensors ``(T, 3, H, W)`` of any lengths and sizes.
            prompts: B texts.

        Raises:
            ValueError: unequal numbers, another dtype or shape, or an empty prompt.
        """
        if len(videos) != len(prompts):
            raise ValueError(
                f"expected one prompt per video, got {len(videos)} videos and {len(prompts)} prompts"
            )
        for video, prompt in zip(videos, prompts, strict=True):
            if video.ndim != 4 or video.shape[1] != 3 or video.dtype != torch.uint8 or len(video) == 0:
                raise ValueError(f"expected uint8 (T, 3, H, W), got {video.dtype} {tuple(video.shape)}")
            if not prompt.strip():
                raise ValueError("a prompt is empty; there is nothing to compare the video with")
            self.scores.append(self._score(video, self._text(prompt)).reshape(1))

    def compute(self) -> Tensor:
        """Return the mean over videos, in [-100, 100]."""
        return self.values().mean()

    def values(self) -> Tensor:
        """Return the ``(N,)`` values of the videos in the order of updates."""
        return torch.cat(self.scores) if isinstance(self.scores, list) else self.scores

    def _text(self, prompt: str) -> Tensor:
        if prompt not in self._texts:
            self._texts[prompt] = self._embed_text(prompt)
        return self._texts[prompt]

    @abstractmethod
    def _embed_text(self, prompt: str) -> Tensor:
        """Return the unit embedding of a prompt."""

    @abstractmethod
    def _score(self, video: Tensor, text: Tensor) -> Tensor:
        """Return the score of one video against an embedded prompt."""


class CLIPScore(_PromptScore):
    """Mean cosine x 100 between the frames of a video and its prompt, by any open_clip model.

    Each prompt is encoded once however many frames and videos it has. Values are not clamped at 0. A model
    sees one frame at a time, so the order of frames does not matter.

    Args:
        model: an open ``ClipModel`` or its name, see ``ClipModel.load``.
        pretrained: weight tag or file for an architecture name.
        batch_size: frames encoded at once; does not change values.
    """

    def __init__(
        self,
        model: str | ClipModel = "embedded",
        pretrained: str | None = None,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.clip = ClipModel.load(model, pretrained) if isinstance(model, str) else model
        self.batch_size = batch_size
        self.provenance = self.clip.provenance

    @property
    def num_cut_prompts(self) -> int:
        """Number of distinct prompts so far that were longer than the model reads."""
        return sum(self.clip.is_cut(prompt) for prompt in self._texts)

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words of the prompt the model was never trained on, if its vocabulary is closed."""
        return self.clip.unknown_words(prompt)

    @torch.no_grad()
    def _embed_text(self, prompt: str) -> Tensor:
        return self.clip.embed_texts([prompt])[0]

    @torch.no_grad()
    def _score(self, video: Tensor, text: Tensor) -> Tensor:
        return clip_score(self.clip.embed_frames(video, self.batch_size), text)


class VideoTextScore(_PromptScore):
    """Cosine x 100 between a whole clip and its prompt, by the embedded video-text model; it sees motion.

    Args:
        folder: weight folder.
    """

    def __init__(self, folder: Path = VIDEO_WEIGHTS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extractor = EmbeddedExtractor(folder)
        self.words = known_words(folder)
        self.provenance = self.extractor.provenance

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words of the prompt the model was never trained on."""
        return unknown_words(prompt, self.words)

    @torch.no_grad()
    def _embed_text(self, prompt: str) -> Tensor:
        tokens = self.extractor.tokenizer([prompt])
        return self.extractor.model.encode_text(tokens.to(self.device))[0]

    @torch.no_grad()
    def _score(self, video: Tensor, text: Tensor) -> Tensor:
        return clip_score(self.extractor(video[None]), text)
