"""Any program as a system: called once for each video, it leaves an mp4 file behind."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from evaluation.engine.scratch import scratch_file
from evaluation.errors import EvaluationError
from evaluation.systems.base import ClipFile, Details, RefusedError, TransientError, digest_of


class CommandSpec(BaseModel):
    """A program in a bench file.

    Attributes:
        run: the program and its arguments, one a list item; ``{prompt}``, ``{seed}``, ``{out}`` (the mp4 to write)
            and ``{device}`` are filled in. No shell is involved.
        environment: variables added to ours.
        folder: working folder.
        timeout: seconds a video may take.
        refused_exit: exit status by which the program says that moderation declined the prompt.
        retry_exit: exit status by which it says that another try may succeed.
        version: of the program; raise it when the same command makes other videos.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    run: Annotated[tuple[str, ...], Field(min_length=1)]
    environment: dict[str, str] = {}
    folder: Path | None = None
    timeout: Annotated[float, Field(gt=0)] = 3600
    refused_exit: int | None = None
    retry_exit: int | None = None
    version: str = ""

    @field_validator("run")
    @classmethod
    def _has_output(cls, run: tuple[str, ...]) -> tuple[str, ...]:
        text = " ".join(run)
        for place in ("prompt", "out"):
            if f"{{{place}}}" not in text:
                raise ValueError(f"the command must contain {{{place}}}")
        return run


class CommandSystem:
    """Calls a program."""

    def __init__(
        self, name: str, spec: CommandSpec, *, device: str = "cpu", base: Path | None = None
    ) -> None:
        """Name the program; ``base`` is what a relative ``folder`` is relative to."""
        self.name, self.spec, self.device = name, spec, device
        self.folder = None if spec.folder is None else (base or Path()) / spec.folder

    @property
    def config(self) -> Mapping[str, Any]:
        """The command and its version; where it runs does not matter."""
        return {"command": list(self.spec.run), "version": self.spec.version}

    @property
    def config_digest(self) -> str:
        """Digest of the command."""
        return digest_of(self.config)

    def check(self) -> list[str]:
        """Return what is missing to run here."""
        program = self.spec.run[0]
        return [] if shutil.which(program) else [f"the program {program} is not installed"]

    def generate(self, prompt: str, seed: int) -> ClipFile:
        """Run the program and take its file."""
        out = scratch_file()
        try:
            self._call(prompt, seed, out)
        except BaseException:
            out.unlink(missing_ok=True)
            raise
        details = Details(
            model=self.spec.version, seed_used=any("{seed}" in argument for argument in self.spec.run)
        )
        return ClipFile(out, details, temporary=True)

    def _call(self, prompt: str, seed: int, out: Path) -> None:
        values = {"prompt": prompt, "seed": str(seed), "out": str(out), "device": self.device}
        command = [fill(argument, values) for argument in self.spec.run]
        try:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **self.spec.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise EvaluationError(f"{self.name}: cannot start {command[0]}: {error.strerror}") from error
        try:
            errors = process.communicate(timeout=self.spec.timeout)[1]
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise EvaluationError(
                    f"{self.name}: the command took longer than {self.spec.timeout:g} s and was stopped"
                ) from error
            raise
        self._judge(process.returncode, errors.decode("utf-8", "replace"), out)

    def _judge(self, status: int, errors: str, out: Path) -> None:
        last = (errors.strip().splitlines() or ["no message"])[-1][:300]
        if status == self.spec.refused_exit:
            raise RefusedError(f"the program declined the prompt: {last}")
        if status == self.spec.retry_exit:
            raise TransientError(f"{self.name}: {last}")
        if status != 0:
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise EvaluationError(f"{self.name}: the command ended with {how}: {last}")
        if not out.is_file() or out.stat().st_size == 0:
            raise EvaluationError(f"{self.name}: the command ended well but wrote no video to {{out}}")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values in place of ``{name}``; other braces, and braces inside values, stay as they are."""
    names = "|".join(re.escape(name) for name in values)
    return re.sub(rf"\{{({names})\}}", lambda found: values[found[1]], template)
