"""Agreement of a text and a video from their embeddings."""

from torch import Tensor
from torch.nn.functional import normalize


def clip_score(frames: Tensor, text: Tensor) -> Tensor:
    """Return 100 times the mean cosine between the frames of one video and its text, not clamped at 0.

    Hessel et al. 2021 multiply by 2.5 and clamp; the unclamped mean keeps the order of bad videos.

    Args:
        frames: ``(T, D)`` embeddings of frames, of any length.
        text: ``(D,)`` embedding of the prompt.

    Returns:
        Scalar in [-100, 100].

    Raises:
        ValueError: shapes that do not fit.
    """
    if frames.ndim != 2 or text.shape != frames.shape[1:] or len(frames) == 0:
        raise ValueError(
            f"expected (T, D) frames and a (D,) text, got {tuple(frames.shape)} and {tuple(text.shape)}"
        )
    return 100 * (normalize(frames, dim=-1) @ normalize(text, dim=-1)).mean()
