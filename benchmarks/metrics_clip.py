"""CLIP score of 32 frames (random weights): ours, bare open_clip encoding, torchmetrics' class.

    python benchmarks/metrics_clip.py --architecture ViT-B-32 --repeats 3

Times are CPU seconds of one thread, the least of the repeats. Bare encoding is what nobody can leave out: resize
and normalise each frame as open_clip does, encode the frames in one batch, and encode the prompt once.

torchmetrics' class is measured twice, since its own loader fails with transformers 5 and it takes any model:
around the same open_clip network with the same weights, whose text tower always reads its 77 tokens, and around
transformers' model of that architecture, which pads to the longest prompt. It encodes the prompt once per frame,
so its time grows with the prompt.
"""

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
import torchmetrics
import transformers
from PIL import Image
from torch import Tensor
from torchmetrics.multimodal import CLIPScore as TheirScore

from metrics.clip_model import ClipModel
from metrics.text_video import CLIPScore

PROMPT_TOKENS = (16, 77)
PROMPT = "a small red bird flying over a lake at dawn, in slow motion"


class OpenClip(torch.nn.Module):
    """An open_clip network with its transform and tokenizer, as torchmetrics asks for a model and a processor."""

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.preprocess, self.tokenizer = model, preprocess, tokenizer
        self.config = transformers.CLIPConfig()

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_image(pixel_values)

    def get_text_features(self, input_ids: Tensor, _: Tensor) -> Tensor:
        return self.model.encode_text(input_ids)

    def process(self, images: Any = None, text: Any = None, **_: Any) -> dict[str, Tensor]:
        """Prepare frames or prompts."""
        if images is not None:
            return {"pixel_values": prepared(self.preprocess, torch.stack(images))}
        tokens = self.tokenizer(text)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


class HuggingFaceClip(transformers.CLIPModel):
    """transformers' CLIP whose feature functions return tensors, as torchmetrics expects."""

    def get_image_features(self, pixel_values: Tensor, *_: Any, **__: Any) -> Tensor:
        return super().get_image_features(pixel_values).pooler_output

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor, *_: Any, **__: Any) -> Tensor:
        return super().get_text_features(input_ids, attention_mask=attention_mask).pooler_output


class Processor:
    """transformers' image processor, and tokens of a prompt of any length in place of a tokenizer."""

    def __init__(self) -> None:
        self.images, self.tokens = transformers.CLIPImageProcessor(), 16

    def __call__(self, images: Any = None, text: Any = None, **_: Any) -> dict[str, Tensor]:
        if images is not None:
            return self.images(images, return_tensors="pt")
        tokens = torch.tensor([49406, *range(1000, 998 + self.tokens), 49407]).expand(len(text), -1)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def least(function: Callable[[], Any], repeats: int) -> float:
    """Return the least CPU time of some runs, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return min(times[1:])


def prepared(preprocess: Any, video: Tensor) -> Tensor:
    """Resize and normalise frames as open_clip does."""
    return torch.stack([preprocess(Image.fromarray(frame)) for frame in video.permute(0, 2, 3, 1).numpy()])


@torch.no_grad()
def bare(model: Any, preprocess: Any, tokenizer: Any, video: Tensor) -> float:
    """Score with nothing but open_clip, the frames in one batch."""
    frames = model.encode_image(prepared(preprocess, video), normalize=True)
    text = model.encode_text(tokenizer([PROMPT]), normalize=True)[0]
    return float(100 * (frames @ text).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="ViT-B-32", choices=("ViT-B-32", "ViT-B-16"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--frames", type=int, default=32)
    arguments = parser.parse_args()
    name, repeats = arguments.architecture, arguments.repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    video = torch.randint(0, 256, (arguments.frames, 3, 512, 512), dtype=torch.uint8)
    prompts = [PROMPT] * len(video)
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=None)
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch.save(model.state_dict(), weights)
        clip = ClipModel.load(name, str(weights))
    tokenizer, processor = open_clip.get_tokenizer(name), Processor()
    same = OpenClip(model, preprocess, tokenizer)
    config = transformers.CLIPConfig(vision_config={"patch_size": int(name.rsplit("-", 1)[1])})
    around_same = TheirScore(lambda: (same, same.process))
    around_other = TheirScore(lambda: (HuggingFaceClip(config).eval(), processor))

    def ours() -> float:
        metric = CLIPScore(clip)
        metric.update([video], [PROMPT])
        return float(metric.compute())

    @torch.no_grad()
    def theirs(metric: TheirScore) -> float:
        """Return the mean before the class sets negative means to 0."""
        metric.reset()
        metric.update(list(video), prompts)
        return float(metric.score / metric.n_samples)

    expected = bare(model, preprocess, tokenizer, video)
    seconds = {
        "bare": least(lambda: bare(model, preprocess, tokenizer, video), repeats),
        "ours": least(ours, repeats),
        "torchmetrics, same network": least(lambda: theirs(around_same), repeats),
    }
    for processor.tokens in PROMPT_TOKENS:
        seconds[f"torchmetrics, transformers, {processor.tokens} tokens"] = least(
            lambda: theirs(around_other), repeats
        )
    report = {
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "torchmetrics": torchmetrics.__version__,
        "transformers": transformers.__version__,
        "architecture": name,
        "frames": arguments.frames,
        "cpu_seconds": {key: round(value, 3) for key, value in seconds.items()},
        "ours_over_bare": round(seconds["ours"] / seconds["bare"], 3),
        "torchmetrics_over_ours": {
            key.removeprefix("torchmetrics, "): round(value / seconds["ours"], 2)
            for key, value in seconds.items()
            if key.startswith("torchmetrics")
        },
        "differences_from_bare": {
            "ours": abs(ours() - expected),
            "torchmetrics, same network": abs(theirs(around_same) - expected),
        },
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
