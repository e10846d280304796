"""Agreement of videos and prompts: the CLIP score of frames and the video-text scores of whole clips."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metrics.clip_model import ClipModel, unknown_words
from metrics.embedded import ATTRIBUTES, VIDEO_WEIGHTS, known_words
from metrics.features import EmbeddedExtractor
from metrics.functional.text_video import clip_score
from metrics.measures import Measure, Missing, Value, Video
from metrics.per_video import PerVideoMetric
from metrics.registry import METRICS, STATIC
from metrics.stillness import asks_for_motion
from metrics.transformers_models import XClip


class _PromptMetric(PerVideoMetric):
    """Hold one value per video and its prompt."""

    higher_is_better = True

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
            self.add(self.score(video, prompt))

    def score(self, video: Tensor, prompt: str) -> Tensor:
        """Return the value of one uint8 ``(T, 3, H, W)`` video without adding it."""
        if video.ndim != 4 or video.shape[1] != 3 or video.dtype != torch.uint8 or len(video) == 0:
            raise ValueError(f"expected uint8 (T, 3, H, W), got {video.dtype} {tuple(video.shape)}")
        if not prompt.strip():
            raise ValueError("a prompt is empty; there is nothing to compare the video with")
        return self._score(video, prompt)

    @abstractmethod
    def _score(self, video: Tensor, prompt: str) -> Tensor:
        """Return the value of one video."""


class _CosineScore(_PromptMetric):
    """Mean cosine x 100 of embeddings, each prompt encoded once."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._texts: dict[str, Tensor] = {}

    def text(self, prompt: str) -> Tensor:
        """Return the unit ``(D,)`` embedding of a prompt."""
        if prompt not in self._texts:
            self._texts[prompt] = self._embed_text(prompt)
        return self._texts[prompt]

    @abstractmethod
    def embed(self, video: Tensor) -> Tensor:
        """Return the ``(n, D)`` embeddings of one uint8 ``(T, 3, H, W)`` video."""

    @abstractmethod
    def _embed_text(self, prompt: str) -> Tensor:
        """Return the unit embedding of a prompt."""

    def _score(self, video: Tensor, prompt: str) -> Tensor:
        return clip_score(self.embed(video), self.text(prompt))


class CLIPScore(_CosineScore):
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
        return sum(self.is_cut(prompt) for prompt in self._texts)

    def is_cut(self, prompt: str) -> bool:
        """Tell whether a prompt is longer than the model reads; its end token is kept."""
        return self.clip.is_cut(prompt)

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words of the prompt the model was never trained on, if its vocabulary is closed."""
        return self.clip.unknown_words(prompt)

    @torch.no_grad()
    def embed(self, video: Tensor) -> Tensor:
        """Return one embedding per frame."""
        return self.clip.embed_frames(video, self.batch_size)

    @torch.no_grad()
    def _embed_text(self, prompt: str) -> Tensor:
        return self.clip.embed_texts([prompt])[0]


class VideoTextScore(_CosineScore):
    """Cosine x 100 between a whole clip and its prompt, by the embedded video-text model; it sees motion.

    Args:
        folder: weight folder.
    """

    def __init__(self, folder: Path = VIDEO_WEIGHTS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extractor = EmbeddedExtractor(folder)
        self.words = known_words(folder)
        self.provenance = self.extractor.provenance

    def is_cut(self, prompt: str) -> bool:
        """Tell whether a prompt is longer than the model reads."""
        return len(self.extractor.tokenizer.encode(prompt)) + 2 > self.extractor.tokenizer.context_length

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words of the prompt the model was never trained on."""
        return unknown_words(prompt, self.words)

    @torch.no_grad()
    def embed(self, video: Tensor) -> Tensor:
        """Return one embedding of the whole clip."""
        return self.extractor(video[None])

    @torch.no_grad()
    def _embed_text(self, prompt: str) -> Tensor:
        tokens = self.extractor.tokenizer([prompt])
        return self.extractor.model.encode_text(tokens.to(self.device))[0]


class AttributeAccuracy(_PromptMetric):
    """Share of a sprites prompt's attributes that a video-text model prefers to every alternative.

    NaN for a prompt that names no attribute of the domain.

    Args:
        model: what compares a video with a text.
    """

    def __init__(self, model: VideoTextScore | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model or VideoTextScore()
        self.provenance = self.model.provenance

    def _score(self, video: Tensor, prompt: str) -> Tensor:
        seen = self.model.embed(video)
        own = clip_score(seen, self.model.text(prompt))
        won = [
            all(clip_score(seen, self.model.text(text)) < own for text in texts)
            for texts in alternatives(prompt)
        ]
        return torch.tensor(won, dtype=torch.float64).mean()


class XCLIPScore(_PromptMetric):
    """X-CLIP's cosine x 100 of whole clips and their prompts.

    Args:
        place: folder or hub id, e.g. ``microsoft/xclip-base-patch32``.
    """

    def __init__(self, place: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.xclip = XClip(place)

    def _score(self, video: Tensor, prompt: str) -> Tensor:
        return 100 * self.xclip.cosine(video, prompt)


class PromptMeasure(Measure):
    """A text score of one file.

    Args:
        name: ``clip`` or ``video_text``.
        metric: what scores.
        sampling: frames to look at.
        device: torch device.
    """

    def __init__(
        self, name: str, metric: CLIPScore | VideoTextScore, sampling: str, device: str = "cpu"
    ) -> None:
        self.infos, self.sampling = (METRICS[name],), sampling
        self.metric, self.device = metric.to(device), device
        self.provenance = metric.provenance

    def values(self, video: Video) -> Mapping[str, Value]:
        """Return the score."""
        return {self.infos[0].name: self._value(video)}

    def is_cut(self, prompt: str) -> bool:
        """Tell whether a prompt is longer than the model reads."""
        return self.metric.is_cut(prompt)

    def _value(self, video: Video) -> Value:
        if video.prompt is None or not video.prompt.strip():
            return Missing("the video has no prompt")
        unknown = self.metric.unknown_words(video.prompt)
        if unknown:
            words = ", ".join(unknown)
            return Missing(f"the embedded model does not know {words}; choose a published model")
        if _stands_still(video, video.prompt):
            return Missing(STATIC)
        frames = video.clip(self.sampling).frames.to(self.device)
        return float(self.metric.score(frames, video.prompt))


class XClipMeasure(Measure):
    """X-CLIP's score of one file."""

    infos = (METRICS["xclip"],)

    def __init__(self, place: str, device: str = "cpu") -> None:
        self.model = XClip(place, device)
        self.sampling, self.provenance = f"uniform:{self.model.frames}", self.model.provenance

    def values(self, video: Video) -> Mapping[str, Value]:
        """Return the score."""
        if video.prompt is None or not video.prompt.strip():
            return {"xclip": Missing("the video has no prompt")}
        if _stands_still(video, video.prompt):
            return {"xclip": Missing(STATIC)}
        return {"xclip": 100 * float(self.model.cosine(video.clip(self.sampling).frames, video.prompt))}

    def is_cut(self, prompt: str) -> bool:
        """Tell whether a prompt is longer than the model reads."""
        return self.model.is_cut(prompt)


class AttributeMeasure(Measure):
    """Share of a prompt's attributes that the embedded video-text model prefers to every alternative."""

    infos = (METRICS["attributes"],)

    def __init__(self, metric: VideoTextScore, sampling: str, device: str = "cpu") -> None:
        self.metric, self.sampling, self.device = AttributeAccuracy(metric).to(device), sampling, device
        self.provenance = metric.provenance

    def values(self, video: Video) -> Mapping[str, Value]:
        """Return the share."""
        return {"attributes": self._value(video)}

    def _value(self, video: Video) -> Value:
        if video.prompt is None or not video.prompt.strip():
            return Missing("the video has no prompt")
        if self.metric.model.unknown_words(video.prompt):
            return Missing("the prompt is not of the sprites domain")
        if not alternatives(video.prompt):
            return Missing("the prompt names no attribute of the sprites domain")
        if _stands_still(video, video.prompt):
            return Missing(STATIC)
        return float(self.metric.score(video.clip(self.sampling).frames.to(self.device), video.prompt))


def _stands_still(video: Video, prompt: str) -> bool:
    """Tell whether a video is static although its prompt asks for motion.

    Such a video has no value, since it would sometimes be the better one: to a model of single frames as often
    as not, to the embedded video-text model in one pair of 185, where one of two objects moves little.
    """
    return asks_for_motion(prompt) and video.is_static()


def alternatives(prompt: str) -> list[list[str]]:
    """Return, for every attribute a prompt of the sprites domain names, the prompt with each other value of it."""
    found = []
    for group in ATTRIBUTES:
        for value in group:
            for before, after in _occurrences(prompt, value):
                found.append([f"{before}{other}{after}" for other in group if other != value])
    return found


def _occurrences(prompt: str, value: str) -> list[tuple[str, str]]:
    padded = f" {prompt.lower()} "
    parts = padded.split(f" {value} ")
    return [
        (f" {value} ".join(parts[:at]).lstrip() + " ", " " + f" {value} ".join(parts[at:]).rstrip())
        for at in range(1, len(parts))
    ]
