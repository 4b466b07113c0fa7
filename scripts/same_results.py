"""Do two versions of s1 give the same results? For changes that must not change any.

    python scripts/same_results.py run OUT                 the demo, curations, sweeps and evals of this version
    python scripts/same_results.py compare BEFORE AFTER    what differs, a line each; exit code 1 if anything does

`run` calls `python -m s1`, so PYTHONPATH decides whose code runs. Weights and curated files are compared by their
bytes, generations by question, sample, the order of policies and token ids, whatever the files look like. It takes
about ten minutes on two cores. Real data is read from ../shared/data beside the checkout and left out without it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
STRATEGIES = ("s1k", "random", "longest", "diverse", "full")
PROFILES = ("strict", "official")
PETRI = ["--benchmark", "petri", "--model", "demo/model", "--max-answer", "12"]


def profile_setting() -> str:
    """What the setting of the profile is called: versions before the one pipeline had it under quality."""
    code = "from s1.data.curate_settings import CurateSettings; CurateSettings().profile"
    known = subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    return "profile" if known else "quality.profile"


def commands() -> Iterator[tuple[str, list[str]]]:
    """Name of the output and arguments of s1, in the order in which they are run."""
    profile_name = profile_setting()
    yield "demo", ["demo", "--out", "demo"]
    for strategy in STRATEGIES:
        for profile in PROFILES:
            settings = ["--set", f"strategy={strategy}", "--set", f"{profile_name}={profile}"]
            name = f"petri-{strategy}-{profile}"
            yield (
                name,
                ["curate", "petri", "--out", name, "--n", "300", "--tokenizer", "demo/model", *settings],
            )
            if DATA.is_dir():
                name = f"traces-{strategy}-{profile}"
                benchmarks = [str(DATA / "benchmarks" / f"{b}.jsonl") for b in ("math500", "aime2024")]
                yield name, ["curate", str(DATA / "traces" / "misguided_attention.parquet"), "--out", name,
                             "--n", "200", "--tokenizer", str(DATA / "tokenizers" / "qwen2.5-instruct"),
                             *settings, "--against", *benchmarks]  # fmt: skip
    yield "sweep", ["sweep", *PETRI, "--limit", "100", "--budgets", "8,32", "--waits", "1,2", "--wait", "Wait",
                    "--wait", "Hmm", "--out", "sweep"]  # fmt: skip
    yield "methods", ["sweep", *PETRI, "--limit", "40", "--budgets", "16", "--waits", "1", "--samples", "2",
                      "--temperature", "0.8", "--method", "majority:n=4", "--method", "short-m:m=2,k=4",
                      "--method", "rejection:limit=60", "--out", "methods"]  # fmt: skip
    yield "eval", ["eval", *PETRI, "--limit", "60", "--max-thinking", "30", "--waits", "1", "--out", "eval"]


def run(out: Path) -> int:
    """Run every command in `out`; what they print is kept in NAME.txt."""
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, arguments in commands():
        done = subprocess.run(
            [sys.executable, "-m", "s1", *arguments], cwd=out, capture_output=True, text=True
        )
        (out / f"{name}.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
        print(f"{name}: exit code {done.returncode}", flush=True)
        failed += done.returncode != 0
    return min(failed, 1)


def results(folder: Path) -> dict[str, str]:
    """A digest for each result in a folder that `run` wrote."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in ("model.safetensors", "dataset.parquet", "dataset.jsonl"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "rejected.jsonl":
            rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            # Stages have other names than before the one pipeline.
            found[name] = digest([{k: v for k, v in row.items() if k != "stage"} for row in rows])
        elif path.name == "ledger.json":
            ledger = json.loads(path.read_text(encoding="utf-8"))
            stages = [[s["in"], s["out"], s["dropped"]] for s in ledger["stages"]]
            found[name] = digest(stages)
        elif path.name == "generations.jsonl":
            found |= {f"{path.parent.name}: {key}": value for key, value in generations(path).items()}
        elif path.name == "metrics.json":
            points = json.loads(path.read_text(encoding="utf-8"))["points"]
            found[f"{name}: points"] = digest([[p["n"], p["accuracy"], p["low"], p["high"]] for p in points])
    return found


def generations(path: Path) -> dict[str, str]:
    """Policy by its place in the run -> digest of questions, samples and token ids."""
    policies: dict[str, list[Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        g = json.loads(line)
        ids = [[s["phase"], s["by"], s["token_ids"]] for s in g["segments"]]
        policies.setdefault(g["policy"], []).append(
            [g["question_id"], g["sample"], ids, g["thinking_tokens"]]
        )
    return {
        f"policy {place} of {len(policies)}, {len(each)} generations": digest(
            sorted(each, key=lambda g: g[:2])
        )
        for place, each in enumerate(policies.values(), 1)
    }


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def compare(before: Path, after: Path) -> int:
    """Print what differs between two folders; 1 if anything does."""
    old, new = results(before), results(after)
    same = [name for name in old if new.get(name) == old[name]]
    for name in sorted({*old, *new} - {*same}):
        how = "differs" if name in old and name in new else "only before" if name in old else "only after"
        print(f"{name}: {how}")
    print(f"{len(same)} of {len({*old, *new})} results are the same")
    return 0 if len(same) == len({*old, *new}) else 1


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", folder]:
            sys.exit(run(Path(folder)))
        case ["compare", one, other]:
            sys.exit(compare(Path(one), Path(other)))
        case _:
            sys.exit(__doc__)
