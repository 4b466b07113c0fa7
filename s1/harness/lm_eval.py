"""A model of lm-evaluation-harness (0.4.13 and later): `--model s1`, through the command `s1-lm-eval`.

    s1-lm-eval run --model s1 --model_args model=FOLDER,max_thinking=512,waits=1 --apply_chat_template --tasks ...

The harness has no entry points for models, so the command registers this one and then calls the harness's
own. In a script `import s1.harness.lm_eval` does the same for `lm_eval.simple_evaluate(model="s1", ...)`.
What the harness calls a generation is the answer; thinking is not part of it unless `show_thinking` is set.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import lm_eval.models  # noqa: F401 - fills the registry, which does so by itself only while it is empty
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from s1.budget import Forcing, drive
from s1.engines import engine_options, load_engine
from s1.engines.background_loop import BackgroundLoop
from s1.errors import BadConfig, BadInput, S1Error, first_error
from s1.formats import choose_format
from s1.harness.arguments import read_request
from s1.harness.request import counts, refuse, render, shown_text
from s1.harness.settings import IN_FLIGHT, read_arguments
from s1.jsonl import dump_line, write_all
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.seeds import seed_of
from s1.types import Engine, Generation, to_json
from s1.version import VERSION

log = logging.getLogger(__name__)

DEFAULT_DEVICE = "cuda:0"
"""What the harness's command line passes when nobody chose a device, GPU or not; the engine then chooses."""
SETTINGS_KEY = "s1 settings"
"""The row of `--use_cache` that says what filled it: the harness's own keys hold the request alone."""


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments of the model beside those of the policy and the engine."""

    model: str = ""
    """What `s1 eval --model` takes: a checkpoint folder, a Hub id or an engine spec."""
    format: str | None = None
    """The thinking format, where it cannot be detected."""
    show_thinking: bool = False
    """Hand the thinking and its delimiters to the task as well, before the answer."""
    raw_prompts: bool = False
    """Accept prompts without a chat template: the thinking then follows plain text."""
    seed: int = 0
    """From which every sampled request gets its own seed. The harness's --seed does not reach models."""
    receipts: str | None = None
    """A JSONL file that gets the full receipt of every request: thinking, counts, waits, tokens."""
    failures: str = "stop"
    """stop: requests that cannot be answered end the run, after the others are done. empty: they answer ""."""


class Walk(NamedTuple):
    """One request on its way."""

    request: Any
    sample: int
    forcing: Forcing | None
    policy: BudgetPolicy
    error: str | None
    """Why there is no walk: a prompt that does not fit."""


@register_model("s1")
class S1LM(LM):  # type: ignore[misc]
    """One engine with one policy. Requests may change both limits and policy; see `read_request`."""

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
        arguments = read_arguments(spec, given, Options)
        self.options: Options = arguments.own
        if self.options.failures not in ("stop", "empty"):
            raise BadConfig(f"failures is {self.options.failures!r}.", "Choose one of: stop, empty.")
        self.policy = arguments.policy
        self.engine: Engine = load_engine(spec, **arguments.engine)
        self.fmt = choose_format(self.engine, self.options.format)
        self.totals: Counter[str] = Counter()
        self._begins = ""
        """How a rendered prompt ends; "" where any prompt will do."""
        if self.engine.template and not self.options.raw_prompts:
            mark = "\u241f"
            self._begins = render(self.engine, [{"role": "user", "content": mark}]).rpartition(mark)[2]
        self._beside = BackgroundLoop("s1-lm-eval")

    # --- what the harness asks of a model -----------------------------------------------------------

    @property
    def tokenizer_name(self) -> str:
        """Tells prompts of different chat templates apart in the harness's cache of requests."""
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
                "The thinking comes before the answer: set gen_prefix to null in a copy of the task.",
            )
        return render(self.engine, chat_history)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise refuse(
            "log-likelihoods",
            "They measure an answer without thinking. Take tasks with output_type generate_until; many "
            "multiple-choice tasks have a generative variant.",
        )

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise refuse("perplexity", "Take tasks with output_type generate_until.")

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer of each request, in order; all run side by side on the engine.

        A finished request goes to the harness's cache and to the receipts at once, so that a killed run goes
        on from there. Raises S1Error before any decoding for what cannot be honoured, and at the end when
        requests failed.
        """
        walks = self._walks(requests)
        texts = self._wait(self._run(walks, disable_tqdm))
        failed = [w.error for w in walks if w.error] + [e for _, e in texts if e]
        if failed and self.options.failures == "stop":
            raise S1Error(
                f"{len(failed)} of {len(requests)} requests failed; the first: {failed[0]}",
                "What succeeded is kept where --use_cache is set: mend that and run the same command again, "
                "or let failed requests answer nothing with failures=empty.",
            )
        if failed:
            log.warning(
                "%d of %d requests failed and answer nothing: %s", len(failed), len(requests), failed[0]
            )
        return [text for text, _ in texts]

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Take the harness's cache of answers. Raises BadConfig when other settings filled it."""
        rows = cache_hook.dbdict
        if rows is not None:
            mine = self.about()
            if SETTINGS_KEY in rows:
                theirs = rows[SETTINGS_KEY]
                if theirs != mine:
                    names = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
                    raise BadConfig(
                        f"This cache was filled with other settings: {', '.join(names)} differ.",
                        "Name another file with --use_cache: the harness does not tell settings apart.",
                    )
            elif len(rows):
                raise BadConfig(
                    "This cache was filled by another model.", "Name another file with --use_cache."
                )
            else:
                rows[SETTINGS_KEY] = mine
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into the config of its results: settings, and sums over all requests."""
        return {"s1": {"version": VERSION, **self.about(), "totals": dict(self.totals)}}

    def about(self) -> dict[str, Any]:
        """The settings that decide what is answered."""
        free = {"receipts", "failures", "model"}
        own = {name: value for name, value in to_json(self.options).items() if name not in free}
        return {
            "engine": self.engine.name,
            **own,
            "format": to_json(self.fmt),
            "policy": to_json(self.policy),
        }

    def close(self) -> None:
        """Close the engine. A closed model answers no more."""
        if not self._beside.loop.is_closed():
            self._beside.call(self.engine.close())
            self._beside.stop()

    # --- requests -----------------------------------------------------------------------------------

    def _walks(self, requests: Sequence[Any]) -> list[Walk]:
        seen: Counter[int] = Counter()
        walks = []
        for request in requests:
            sample = seen[id(request)]  # the harness repeats the same object for each sample
            seen[id(request)] += 1
            context, given = request.args
            read = read_request(given, self.policy)
            self._check_prompt(context)
            if (
                read.sampling.temperature
                and not given.get("do_sample")
                and self._caching
                and request.repeats > 1
            ):
                raise BadConfig(
                    f"{request.task_name}: with --use_cache, repeated samples need do_sample.",
                    "Add --gen_kwargs do_sample=True: without it the harness gives every sample one answer.",
                )
            place = (request.task_name, request.doc_id, request.idx, sample, context)
            seed = seed_of(self.options.seed if read.seed is None else read.seed, *place)
            sampling = replace(read.sampling, seed=seed if read.sampling.temperature else None)
            try:
                encoded = encode_prompt(
                    self.engine,
                    self.fmt,
                    read.policy,
                    context,
                    stops=read.until,
                    answer_limit=read.answer_limit,
                )
                forcing = Forcing(encoded, sampling)
            except BadInput as error:
                walks.append(Walk(request, sample, None, read.policy, str(error)))
            else:
                walks.append(Walk(request, sample, forcing, read.policy, None))
        return walks

    def _check_prompt(self, context: object) -> None:
        if not isinstance(context, str):
            raise refuse("prompts that are not text", "Choose tasks without images or audio.")
        if not context.endswith(self._begins):
            raise BadConfig(
                "The prompts were not rendered with the chat template of the model.",
                "Add --apply_chat_template, or raw_prompts=true if thinking is to follow plain text.",
            )

    @property
    def _caching(self) -> bool:
        return self.cache_hook.dbdict is not None

    async def _run(self, walks: Sequence[Walk], quiet: bool) -> list[tuple[str, str | None]]:
        """(text, error) of each walk."""
        from tqdm import tqdm

        found: list[tuple[str, str | None]] = [("", None)] * len(walks)
        slots = asyncio.Semaphore(IN_FLIGHT)
        bar = tqdm(total=len(walks), disable=quiet, desc="s1")

        async def walk(index: int) -> None:
            each = walks[index]
            if each.forcing is not None:
                async with slots:
                    name = f"{each.request.task_name}/{each.request.doc_id}/{each.request.idx}"
                    generation = await drive(each.forcing, self.engine, name, each.sample)
                found[index] = self._done(each, replace(generation, policy=each.policy.key))
                bar.set_postfix(thinking=self.totals["thinking_tokens"], refresh=False)
            bar.update()

        try:
            async with asyncio.TaskGroup() as tasks:
                for index in range(len(walks)):
                    tasks.create_task(walk(index))
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        finally:
            bar.close()
        return found

    def _done(self, walk: Walk, generation: Generation) -> tuple[str, str | None]:
        told = counts(generation)
        self.totals.update({"requests": 1, "failed": int(generation.error is not None)})
        self.totals.update({k: int(told[k]) for k in ("thinking_tokens", "answer_tokens", "waits", "cut")})
        if self.options.receipts is not None:
            write_receipt(Path(self.options.receipts), walk.request, generation)
        if generation.error is not None:
            return "", generation.error
        text = shown_text(generation, self.fmt, self.options.show_thinking)
        self.cache_hook.add_partial("generate_until", walk.request.args, text)
        return text, None

    def _wait(self, work: Any) -> Any:
        """The result of a coroutine in the loop beside; an interrupt cancels it, so that decoding stops."""
        running = asyncio.run_coroutine_threadsafe(work, self._beside.loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise


def write_receipt(file: Path, request: Any, generation: Generation) -> None:
    """Append one line: the task, what joins it to the harness's samples, and the receipt."""
    from lm_eval.utils import hash_string

    line = {
        "task": request.task_name,
        "doc_id": request.doc_id,
        "prompt_hash": hash_string(request.args[0]),
        "sample": generation.sample,
        "receipt": to_json(generation),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        write_all(descriptor, dump_line(line))
    finally:
        os.close(descriptor)


def _batch(
    spec: str, batch_size: int | str | None, max_batch_size: int | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The harness's batch size as an option of the engine. 1, its default, leaves the engine its own."""
    size = max_batch_size if batch_size == "auto" else batch_size
    if size is None or str(size) in ("1", "auto"):
        return {}
    if "max_batch" not in engine_options(spec) or not str(size).isdigit():
        raise refuse(f"batch size {size!r} on this engine", "Leave --batch_size out: the engine decides.")
    if "max_batch" in given:
        raise BadConfig("Both --batch_size and max_batch were given.", "Give one.")
    return {"max_batch": int(size)}


def main() -> int:
    """The command `s1-lm-eval`: the harness's own command line, with the model s1 registered.

    Where an output path and no receipts are given, receipts go to s1_receipts.jsonl in that path.
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
                "receipts": str(folder / "s1_receipts.jsonl"),
                **(arguments.model_args or {}),
            }
        parser.execute(arguments)
    except S1Error as error:
        print(f"s1-lm-eval: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
