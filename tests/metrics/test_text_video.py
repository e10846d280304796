"""CLIP score against a hand-written open_clip loop, with models loaded as published ones are."""

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from metrics.clip_model import ClipModel
from metrics.errors import WeightsError
from metrics.functional import clip_score
from metrics.text_video import CLIPScore, VideoTextScore

PROMPTS = ["a red star", "a blue cross"]


def clips(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (5, 3, *size), generator=generator).byte() for size in sizes]


def by_hand(folder: Path, video: Tensor, prompt: str) -> float:
    """Score with nothing but open_clip and Pillow, frame by frame."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=str(folder / "bpe.txt.gz"))
    model.eval()
    with torch.no_grad():
        text = model.encode_text(tokenizer([prompt]))[0]
        cosines = []
        for frame in video:
            image = preprocess(Image.fromarray(frame.permute(1, 2, 0).numpy()))
            cosines.append(torch.cosine_similarity(model.encode_image(image[None])[0], text, dim=0))
    return 100 * float(torch.stack(cosines).mean())


def test_equal_to_a_hand_written_loop(tiny_clip: Path) -> None:
    videos = clips((40, 40), (48, 75))
    metric = CLIPScore(f"local-dir:{tiny_clip}")
    metric.update(videos, PROMPTS)
    expected = [by_hand(tiny_clip, video, prompt) for video, prompt in zip(videos, PROMPTS, strict=True)]
    assert metric.values().tolist() == pytest.approx(expected, rel=1e-6, abs=1e-4)
    assert float(metric.compute()) == pytest.approx(sum(expected) / 2, rel=1e-6, abs=1e-4)


def test_neither_batch_size_nor_order_of_frames_matters(tiny_clip: Path) -> None:
    clip = ClipModel.load(f"local-dir:{tiny_clip}")
    (video,) = clips((40, 56))
    values = []
    for batch_size, frames in ((1, video), (3, video), (64, video), (64, video.flip(0))):
        metric = CLIPScore(clip, batch_size=batch_size)
        metric.update([frames], PROMPTS[:1])
        values.append(float(metric.compute()))
    assert values == pytest.approx([values[0]] * 4, abs=1e-5)


def test_each_prompt_is_encoded_once(tiny_clip: Path) -> None:
    clip = ClipModel.load(f"local-dir:{tiny_clip}")
    calls: list[int] = []
    clip.model.transformer.register_forward_hook(lambda *_: calls.append(1))
    metric = CLIPScore(clip)
    for _ in range(3):
        metric.update(clips((32, 32), (32, 32)), PROMPTS)
    assert len(calls) == 2


def test_a_long_prompt_keeps_its_end_token_and_is_counted(tiny_clip: Path) -> None:
    clip = ClipModel.load(f"local-dir:{tiny_clip}")
    long = "a very very very long prompt about a star"
    assert clip.tokenizer([long])[0, -1] == clip.tokenizer.eot_token_id
    metric = CLIPScore(clip)
    metric.update(clips((32, 32), (32, 32)), [long, "a star"])
    assert metric.num_cut_prompts == 1


def test_a_negative_score_is_not_clamped() -> None:
    frames, text = torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.tensor([-1.0, 1.0])
    assert float(clip_score(frames, text)) == pytest.approx(-100 / 2**0.5)


def test_wrong_input_is_refused(tiny_clip: Path) -> None:
    metric = CLIPScore(f"local-dir:{tiny_clip}")
    with pytest.raises(ValueError, match="one prompt per video"):
        metric.update(clips((32, 32)), PROMPTS)
    with pytest.raises(ValueError, match="uint8"):
        metric.update([torch.zeros(2, 3, 8, 8)], ["a star"])
    with pytest.raises(ValueError, match="empty"):
        metric.update(clips((32, 32)), ["  "])
    with pytest.raises(ValueError, match="expected"):
        clip_score(torch.zeros(3, 2), torch.zeros(3))


@pytest.mark.parametrize(
    ("model", "pretrained", "words"),
    [
        ("ViT-B-32", None, "needs weights"),
        ("ViT-B-32", "no-such-tag", "no-such-tag"),
        ("no-such-model", "openai", "no-such-model"),
        ("local-dir:/no/such/folder", None, "no/such/folder"),
    ],
)
def test_a_model_that_is_not_there_is_refused(model: str, pretrained: str | None, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        ClipModel.load(model, pretrained)


def test_damaged_weights_are_refused(tiny_clip: Path, tmp_path: Path) -> None:
    for file in tiny_clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / "open_clip_model.safetensors")
    state.pop("text_projection")
    save_file(state, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(WeightsError, match=r"text_projection|Missing"):
        ClipModel.load(f"local-dir:{tmp_path}")


def test_an_architecture_takes_a_weight_file_and_openai_weights_need_quickgelu(
    tiny_clip: Path, tmp_path: Path
) -> None:
    config = json.loads((tiny_clip / "open_clip_config.json").read_text())["model_cfg"]
    config["text_cfg"] |= {"vocab_size": 49408}
    (tmp_path / "tiny-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-test.json")
    torch.manual_seed(0)
    state = open_clip.CLIP(**config).state_dict()
    for name in ("ours.safetensors", "openai.safetensors"):
        save_file(state, tmp_path / name)
    clip = ClipModel.load("tiny-test", str(tmp_path / "ours.safetensors"))
    assert clip.embed_texts(["a star"]).norm() == pytest.approx(1)
    with pytest.raises(WeightsError, match="QuickGELU"):
        ClipModel.load("tiny-test", str(tmp_path / "openai.safetensors"))


def test_scores_of_parts_merge(tiny_clip: Path) -> None:
    clip, (first, second) = ClipModel.load(f"local-dir:{tiny_clip}"), clips((32, 32), (40, 40))
    whole, left, right = CLIPScore(clip), CLIPScore(clip), CLIPScore(clip)
    whole.update([first, second], PROMPTS)
    left.update([first], PROMPTS[:1])
    right.update([second], PROMPTS[1:])
    left.merge_state(right)
    assert sorted(left.values().tolist()) == pytest.approx(sorted(whole.values().tolist()))


def test_video_text_score_sees_the_order_of_frames(
    tiny_video_model: Path, moving_texture: Callable[..., Tensor]
) -> None:
    video, metric = moving_texture(), VideoTextScore(tiny_video_model)
    metric.update([video, video.flip(0), video[:, :, :32]], ["a red star"] * 3)
    values = metric.values()
    assert float((values[0] - values[1]).abs()) > 1e-4
    assert values.abs().max() <= 100
    assert metric.unknown_words("a red walrus, star!") == ["walrus"]


def test_missing_video_text_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="magicvideo train metrics"):
        VideoTextScore(tmp_path)
