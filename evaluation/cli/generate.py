"""``magicvideo generate``: a prompt in, an mp4 out."""

import logging
from pathlib import Path
from typing import Annotated

import typer

log = logging.getLogger(__name__)


def generate(
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The mp4 file to write.")],
    preset: Annotated[
        str, typer.Option(help="A preset (sprites), a checkpoint folder, or a hub id.")
    ] = "sprites",
    seed: Annotated[int, typer.Option(help="Same seed, same frames.")] = 0,
    arm: Annotated[str, typer.Option(help="An ablation arm, e.g. full, -v2v, -vfi.")] = "full",
    keep_stages: Annotated[
        Path | None, typer.Option(help="Folder for the reference image and each stage's video.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
) -> None:
    """Make one video from one prompt through all four stages."""
    from magicvideo.errors import MagicVideoError
    from magicvideo.presets import SPRITES, ablate, check_source
    from magicvideo.video import check_writable

    if not prompt.strip():
        raise MagicVideoError("the prompt is empty; say what the video shows")
    check_writable(output)
    check_source(preset)
    ablate(SPRITES, arm)

    from magicvideo.pipeline import MagicVideoPipeline, write_stages
    from magicvideo.video import write_video

    pipe = MagicVideoPipeline.from_pretrained(preset, device=device, dtype=dtype)
    result = pipe(prompt, seed=seed, arm=arm)
    write_video(output, result.frames, result.fps)
    if keep_stages is not None:
        write_stages(keep_stages, result, pipe.config.keyframe_fps)
    count, _, height, width = result.frames.shape
    for record in result.records:
        log.info("%s %6.2f s  %s", record.stage, record.seconds, record.digest)
    typer.echo(f"{output}: {count} frames of {width}x{height} at {float(result.fps):g} fps")
