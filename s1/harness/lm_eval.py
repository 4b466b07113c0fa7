"""A model of lm-evaluation-harness (0.4.13 and later): `--model s1`, through the command `s1-lm-eval`.

    s1-lm-eval run --model s1 --model_args model=FOLDER,max_thinking=512,waits=1 --apply_chat_template --tasks ...

The harness has no entry points for models, so the command registers this one and then runs the harness's own
command. In a script, `import s1.harness.lm_eval` registers it for `lm_eval.simple_evaluate(model="s1", ...)`.
The harness sees the answer alone, unless `show_thinking` is set.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lm_eval.models  # noqa: F401 - fills the registry, which does so by itself only while it is empty
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from s1.budget import Forcing
from s1.drive import drive
from s1.engines import engine_options, load_engine
from s1.engines.background_loop import BackgroundLoop
from s1.errors import BadConfig, BadInput, S1Error
from s1.formats import ThinkingFormat, choose_format
from s1.harness.adapter import IN_FLIGHT, counts, read_arguments, refuse, render, shown_text
from s1.harness.generation_kwargs import read_request
from s1.jsonl import dump_line, write_all
from s1.methods.rollouts import side_by_side
from s1.terminal import visible
from s1.types import Engine, Generation, to_json
from s1.version import VERSION

log = logging.getLogger(__name__)

DEFAULT_DEVICE = "cuda:0"
"""What the harness passes when no device was chosen, with or without a GPU; the engine then chooses."""
SETTINGS_KEY = "s1 settings"
"""The row of `--use_cache` with the settings that filled it; the harness's own keys hold the request alone."""


@dataclass(frozen=True, slots=True)
class LMEvalOptions:
    """Arguments of the model besides those of the policy and the engine."""

    model: str = ""
    """What `s1 eval --model` takes: a checkpoint folder, a Hub id or an engine spec."""
    format: str | None = None
    """The thinking format; None detects it."""
    show_thinking: bool = False
    """Give the task the thinking and its delimiters too, before the answer."""
    raw_prompts: bool = False
    """Accept prompts without a chat template; the thinking then follows plain text."""
    seed: int = 0
    """Every sampled request derives its own seed from this one. The harness's --seed does not reach models."""
    generations: str | None = None
    """A JSONL file for the full generation of every request: thinking, tokens, waits."""
    failures: str = "stop"
    """stop: failed requests end the run, after all others are done. empty: they answer ""."""


class Pending(NamedTuple):
    """One request before its first token."""

    request: Any
    """The harness's."""
    sample: int
    fmt: ThinkingFormat
    forcing: Forcing | BadInput
    """The error of a prompt that does not fit."""


@register_model("s1")
class S1LM(LM):  # type: ignore[misc]
    """One engine with one policy. A request may change its limits and its policy; see `read_request`."""

    def __init__(
        self,
        *,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **given: Any,
    ) -> None:
        super().__init__()
        spec = given.get("model")
        if not isinstance(spec, str) or not spec:
            raise BadConfig("No model was named.", "Add model=FOLDER (or a Hub id, or an engine spec).")
        given |= _batch(spec, batch_size, max_batch_size, given)
        if device not in (None, DEFAULT_DEVICE):
            given["device"] = device
        self.options, self.policy, engine_given = read_arguments(spec, given, LMEvalOptions)
        if self.options.failures not in ("stop", "empty"):
            raise BadConfig(f"failures is {self.options.failures!r}.", "Choose one of: stop, empty.")
        self.engine: Engine = load_engine(spec, **engine_given)
        self.fmt = choose_format(self.engine, self.options.format)
        self.totals: Counter[str] = Counter()
        self._begins = ""
        """How a rendered prompt ends; "" accepts any prompt."""
        if self.engine.template and not self.options.raw_prompts:
            mark = "\u241f"
            self._begins = render(self.engine, [{"role": "user", "content": mark}]).rpartition(mark)[2]
        self._loop = BackgroundLoop("s1-lm-eval")

    # --- the interface of the harness ---------------------------------------------------------------

    @property
    def tokenizer_name(self) -> str:
        """Distinguishes chat templates in the harness's cache of requests."""
        return self.engine.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template as text, for the harness's log."""
        if isinstance(chat_template, str):
            raise refuse(
                f"the choice of a chat template ({chat_template!r})", "Use --apply_chat_template alone."
            )
        return self.engine.template or ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as a prompt, up to where the assistant begins."""
        if not add_generation_prompt:
            raise refuse(
                "a task that begins the answer itself (gen_prefix)",
                "Thinking comes before the answer: set gen_prefix to null in a copy of the task.",
            )
        return render(self.engine, chat_history)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise refuse(
            "log-likelihoods",
            "They score an answer without thinking. Use tasks with output_type generate_until; many "
            "multiple-choice tasks have a generative variant.",
        )

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise refuse("perplexity", "Use tasks with output_type generate_until.")

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer of each request, in order; all run together on the engine.

        A finished request goes to the harness's cache and to the file of generations at once, so that a killed
        run resumes from there. Raises S1Error before any decoding for what is not supported, and at the end
        when requests failed.
        """
        texts = self._loop.call(self._run(list(self._prepared(requests)), disable_tqdm))
        failed = [error for _, error in texts if error]
        if failed and self.options.failures == "stop":
            raise S1Error(
                f"{len(failed)} of {len(requests)} requests failed; the first: {failed[0]}",
                "Fix this, then rerun the command; with --use_cache it keeps what succeeded. Or set "
                "failures=empty, so that failed requests answer nothing.",
            )
        if failed:
            log.warning(
                "%d of %d requests failed and answer nothing: %s", len(failed), len(requests), failed[0]
            )
        return [text for text, _ in texts]

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Accept the harness's cache of answers. Raises BadConfig when other settings filled it."""
        rows, mine = cache_hook.dbdict, self.settings()
        if rows is not None:
            if not len(rows):
                rows[SETTINGS_KEY] = mine
            theirs = rows.get(SETTINGS_KEY, {})
            if names := sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k)):
                raise BadConfig(
                    f"This cache was filled by another model or other settings: {', '.join(names)} differ.",
                    "Name another file with --use_cache: the harness does not distinguish settings.",
                )
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness adds to the config of its results: settings, and totals over all requests."""
        return {"s1": {"version": VERSION, **self.settings(), "totals": dict(self.totals)}}

    def settings(self) -> dict[str, Any]:
        """The settings that decide the answers."""
        free = {"generations", "failures", "model"}
        own = {name: value for name, value in to_json(self.options).items() if name not in free}
        return {
            "engine": self.engine.name,
            **own,
            "format": to_json(self.fmt),
            "policy": to_json(self.policy),
        }

    def close(self) -> None:
        """Close the engine. A closed model cannot answer."""
        if not self._loop.is_closed:
            self._loop.call(self.engine.close())
            self._loop.stop()

    # --- requests -----------------------------------------------------------------------------------

    def _prepared(self, requests: Sequence[Any]) -> Iterator[Pending]:
        seen: Counter[int] = Counter()
        for request in requests:
            sample = seen[id(request)]  # the harness repeats the same object for each sample
            seen[id(request)] += 1
            prompt, given = request.args
            wanted = read_request(given, self.policy, self.options.seed)
            self._check_prompt(prompt)
            is_sampled = wanted.sampling.temperature > 0 and request.repeats > 1
            if is_sampled and self.cache_hook.dbdict is not None and not given.get("do_sample"):
                raise BadConfig(
                    f"{request.task_name}: with --use_cache, repeated samples need do_sample.",
                    "Add --gen_kwargs do_sample=True: without it the harness gives every sample one answer.",
                )
            fmt = wanted.thinking_format(self.engine, self.fmt)
            identity = (request.task_name, request.doc_id, request.idx, sample, prompt)
            try:
                forcing: Forcing | BadInput = wanted.forcing(self.engine, fmt, prompt, *identity)
            except BadInput as error:
                forcing = error
            yield Pending(request, sample, fmt, forcing)

    def _check_prompt(self, prompt: object) -> None:
        if not isinstance(prompt, str):
            raise refuse("prompts that are not text", "Use tasks without images or audio.")
        if not prompt.endswith(self._begins):
            raise BadConfig(
                "The prompts were not rendered with the chat template of the model.",
                "Add --apply_chat_template, or raw_prompts=true for thinking after plain text.",
            )

    # --- running them -------------------------------------------------------------------------------

    async def _run(self, pending: Sequence[Pending], quiet: bool) -> list[tuple[str, str | None]]:
        """(text, error) of each request."""
        from tqdm import tqdm

        slots = asyncio.Semaphore(IN_FLIGHT)
        bar = tqdm(total=len(pending), disable=quiet, desc="s1")

        async def answer(each: Pending) -> tuple[str, str | None]:
            if isinstance(each.forcing, BadInput):
                bar.update()
                return "", str(each.forcing)
            async with slots:
                name = f"{each.request.task_name}/{each.request.doc_id}/{each.request.idx}"
                generation = await drive(each.forcing, self.engine, name, each.sample)
            text = self._record(each, generation)
            bar.set_postfix(thinking=self.totals["thinking_tokens"], refresh=False)
            bar.update()
            return text, generation.error

        with bar:
            return await side_by_side(map(answer, pending))

    def _record(self, pending: Pending, generation: Generation) -> str:
        """Count and store a generation; returns what the task sees of it, "" where it failed."""
        counted = counts(generation)
        self.totals.update({"requests": 1, "failed": int(generation.error is not None)})
        self.totals.update({k: int(counted[k]) for k in ("thinking_tokens", "answer_tokens", "waits", "cut")})
        if self.options.generations is not None:
            append_generation(Path(self.options.generations), pending.request, generation)
        if generation.error is not None:
            return ""
        text = shown_text(generation, pending.fmt, self.options.show_thinking)
        self.cache_hook.add_partial("generate_until", pending.request.args, text)
        return text


def append_generation(file: Path, request: Any, generation: Generation) -> None:
    """Append one line: the task, the fields that join it to the harness's samples, and the generation."""
    from lm_eval.utils import hash_string

    line = {
        "task": request.task_name,
        "doc_id": request.doc_id,
        "prompt_hash": hash_string(request.args[0]),
        "sample": generation.sample,
        "generation": to_json(generation),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab", buffering=0) as out:
        write_all(out.fileno(), dump_line(line))


def _batch(
    spec: str, batch_size: int | str | None, max_batch_size: int | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The harness's batch size as an option of the engine. With 1, its default, the engine decides."""
    size = max_batch_size if batch_size == "auto" else batch_size
    if size is None or str(size) in ("1", "auto"):
        return {}
    if "max_batch" not in engine_options(spec) or not str(size).isdigit():
        raise refuse(f"batch size {size!r} on this engine", "Remove --batch_size: the engine decides.")
    if "max_batch" in given:
        raise BadConfig("Both --batch_size and max_batch were given.", "Give one.")
    return {"max_batch": int(size)}


def main() -> int:
    """The command `s1-lm-eval`: the harness's own command line, with the model s1 registered.

    With an output path, generations go to s1_generations.jsonl in it unless `generations` names a file.
    """
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    setup_logging()
    try:
        parser = HarnessCLI()
        arguments = parser.parse_args()
        if getattr(arguments, "model", None) == "s1" and getattr(arguments, "output_path", None):
            path = Path(arguments.output_path)
            folder = path.parent if path.suffix == ".json" else path
            arguments.model_args = {
                "generations": str(folder / "s1_generations.jsonl"),
                **(arguments.model_args or {}),
            }
        parser.execute(arguments)
    except S1Error as error:
        print(visible(f"s1-lm-eval: {error}"), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
