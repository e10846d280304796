"""``magicvideo generate``: a prompt in, an mp4 out."""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from magicvideo.pipeline import VideoResult

log = logging.getLogger(__name__)


def generate(
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The mp4 file to write.")],
    preset: Annotated[
        str, typer.Option(help="A preset (sprites, paper), a checkpoint folder, or a hub id.")
    ] = "sprites",
    seed: Annotated[int, typer.Option(help="Same seed, same frames.")] = 0,
    arm: Annotated[str, typer.Option(help="An ablation arm, e.g. full, -v2v, -vfi.")] = "full",
    image: Annotated[
        Path | None,
        typer.Option(help="A reference image in place of text-to-image's; its middle square is used."),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SOURCE", help="Take a part from a hub id, folder or file; repeatable."),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="A LoRA, such as `train preference` writes: a folder or file.")
    ] = None,
    keep_stages: Annotated[
        Path | None, typer.Option(help="Folder for the reference image and each stage's video.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps the stages' outputs, so that nothing is made twice."),
    ] = None,
    records: Annotated[
        Path | None, typer.Option("--json", help="Also write configuration and stage records to this file.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="Less than half the memory, somewhat slower.")
    ] = False,
    compile_: Annotated[
        bool,
        typer.Option("--compile", help="Compile the models: the first video is slower, the others faster."),
    ] = False,
) -> None:
    """Make one video from one prompt through all four stages."""
    from magicvideo.errors import MagicVideoError
    from magicvideo.presets import SPRITES, ablate, check_source, with_parts
    from magicvideo.video import check_writable

    if not prompt.strip():
        raise MagicVideoError("the prompt is empty; say what the video shows")
    check_writable(output)
    check_source(preset)
    ablate(SPRITES, arm)
    parts = _named_sources(part or [])
    with_parts(SPRITES, parts)
    if records is not None and not records.parent.is_dir():
        raise MagicVideoError(f"cannot write {records}: the folder {records.parent} does not exist")
    if image is not None and not image.is_file():
        raise MagicVideoError(f"there is no image {image}")

    from magicvideo.execution import Execution
    from magicvideo.pipeline import MagicVideoPipeline, write_stages
    from magicvideo.t2i import read_image
    from magicvideo.video import write_video

    given = None if image is None else read_image(image)
    execution = Execution(compile=compile_)
    if low_memory:
        execution = Execution(
            guidance="sequential",
            decode_chunk_size=1,
            offload="none" if device == "cpu" else "model",
            compile=compile_,
        )
    pipe = MagicVideoPipeline.from_pretrained(
        preset,
        device=device,
        dtype=dtype,
        arm=arm,
        parts=parts,
        adapter=adapter,
        execution=execution,
        cache_dir=cache,
    )
    result = pipe(prompt, seed=seed, image=given)
    write_video(output, result.frames, result.fps)
    if keep_stages is not None:
        write_stages(keep_stages, result, pipe.config.keyframe_fps)
    for record in result.records:
        log.info(
            "%s %6.2f s  %s%s",
            record.stage,
            record.seconds,
            record.digest,
            "  reused" if record.reused else "",
        )
    if records is not None:
        _write_records(records, pipe.config.to_dict(), seed, result)
    count, _, height, width = result.frames.shape
    typer.echo(f"{output}: {count} frames of {width}x{height} at {float(result.fps):g} fps")


def _named_sources(texts: list[str]) -> dict[str, str]:
    """Return the sources of ``NAME=SOURCE`` by name."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, _, source) in zip(texts, pairs, strict=True):
        if not name or not source:
            raise typer.BadParameter(f"{text!r} is not of the form NAME=SOURCE", param_hint="--part")
    return {name: source for name, _, source in pairs}


def _write_records(path: Path, config: dict[str, object], seed: int, result: "VideoResult") -> None:
    from dataclasses import asdict

    content = {
        "prompt": result.prompt,
        "seed": seed,
        "fps": float(result.fps),
        "frames": len(result.frames),
        "config": config,
        "stages": [asdict(record) for record in result.records],
    }
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)
