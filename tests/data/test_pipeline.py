from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from s1.data.curate_settings import CurateSettings
from s1.data.decontaminate import benchmark_frame, duplicate_reasons, read_benchmarks
from s1.data.difficulty import with_trace_tokens
from s1.data.ledger import Ledger
from s1.data.output import FILES, dataset_rows, write_stage
from s1.data.pipeline import curate, run_stages
from s1.data.pool import Pool, pool_of_frame, read_pool
from s1.data.read_traces import read_traces
from s1.errors import BadConfig, BadInput
from s1.types import from_json, to_json

BENCH = benchmark_frame("b", ["1"], ["the secret test question of this little world here"])


def small_frame() -> pl.DataFrame:
    rows = [
        {
            "id": f"r{i:02d}",
            "question": f"question number {i} is this?",
            "source": "AIME" if i % 2 else "other",
            "domain": f"d{i % 3}",
            "thinking": f"step {i} and so {i} .",
            "attempt": str(i),
            "answer": str(i),
            "correct": i % 2 == 0,
            "trace_tokens": 5 + i,
            "solved_small": 1.0 if i == 4 else 0.0,
        }
        for i in range(20)
    ]
    rows[2]["thinking"] = "it breaks off in the"
    rows[5]["question"] = "Here: " + BENCH["benchmark_question"][0]
    rows[7]["question"] = rows[6]["question"]
    return pl.DataFrame(rows)


def small_pool() -> Pool:
    return pool_of_frame(small_frame())


def fates(ledger: Ledger) -> dict[str, tuple[str, str]]:
    return {i: (s, r) for i, s, r in ledger.rejected.select("id", "stage", "reason").iter_rows()}


def test_every_row_has_one_fate() -> None:
    ledger = curate(small_pool(), CurateSettings(n=10), benchmarks=BENCH)
    fate = fates(ledger)
    assert fate["r02"] == ("clean", "cut trace") and fate["r04"] == ("difficulty", "solved by small")
    assert fate["r05"] == ("decontaminate", "8-gram of b")
    assert fate["r07"] == ("decontaminate", "duplicate of r06")
    assert len(fate) == 10 and ledger.selected.height == 10
    assert set(fate) | set(ledger.selected["id"]) == set(small_frame()["id"])
    for before, after in zip(ledger.stages, ledger.stages[1:], strict=False):
        assert before.rows_out == after.rows_in
    for stage in ledger.stages:
        assert stage.rows_in - sum(stage.dropped.values()) == stage.rows_out
        assert sum(s["out"] for s in stage.sources.values()) == stage.rows_out


def test_official_decontamination_comes_first_and_spares_aime() -> None:
    settings = CurateSettings(n=10, profile="official")
    ledger = curate(small_pool(), settings, benchmarks=BENCH)
    assert [s.name for s in ledger.stages][1] == "decontaminate"
    assert fates(ledger).get("r05", ("", ""))[0] != "decontaminate"
    assert ledger.tables["hits.jsonl"]["id"].to_list() == ["r05"]


def test_a_dropped_hit_does_not_take_its_spared_copy_along() -> None:
    # r04 is no AIME question, comes before r05 and its attempt is right: as a copy it would stay instead.
    frame = small_frame().with_columns(
        question=pl.when(pl.col("id") == "r04")
        .then(pl.lit("Here: " + BENCH["benchmark_question"][0]))
        .otherwise("question")
    )
    ledger = curate(pool_of_frame(frame), CurateSettings(n=50, profile="official"), benchmarks=BENCH)
    assert fates(ledger)["r04"] == ("decontaminate", "8-gram of b") and "r05" in ledger.selected["id"]


def test_ablations_skip_difficulty() -> None:
    for strategy, count in (("random", 10), ("longest", 10), ("diverse", 10), ("full", 17)):
        ledger = curate(small_pool(), CurateSettings(n=10, strategy=strategy), benchmarks=BENCH)
        assert ledger.selected.height == count
        assert "difficulty" not in [s.name for s in ledger.stages]


def test_the_folder_is_whole_and_the_same_for_any_order_of_rows(tmp_path: Path) -> None:
    frame = small_frame()
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=1)
    for name, rows in (("a", frame), ("b", shuffled)):
        curate(pool_of_frame(rows), CurateSettings(n=10), tmp_path / name, benchmarks=BENCH)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert not list(tmp_path.glob(".*"))
    ledger = json.loads((tmp_path / "a" / "ledger.json").read_text())
    assert ledger["selected"] == 10 and ledger["stages"][0]["in"] == 20
    assert from_json(CurateSettings, ledger["settings"]) == CurateSettings(n=10)
    rejected = [json.loads(line) for line in (tmp_path / "a" / "rejected.jsonl").open()]
    assert {r["id"] for r in rejected} | set(read_pool(tmp_path / "a").rows["id"]) == set(frame["id"])
    hit = json.loads((tmp_path / "a" / "hits.jsonl").read_text())
    assert hit["benchmark_question"] == BENCH["benchmark_question"][0] and hit["id"] == "r05"


@pytest.mark.parametrize("prefix", ["", "deepseek"])
def test_datasets_opens_the_result_and_the_pool_reader_reads_it_back(tmp_path: Path, prefix: str) -> None:
    from datasets import load_dataset

    settings = CurateSettings(n=10, trace_prefix=prefix)
    ledger = curate(small_pool(), settings, tmp_path / "out")
    file = str(tmp_path / "out" / "dataset.parquet")
    rows = load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path / "cache"))
    trace = f"{prefix}_thinking_trajectory" if prefix else "thinking_trajectories"
    assert rows.num_rows == 10
    assert {"solution", "question", "cot_type", "source_type", "metadata", trace} <= set(rows.column_names)
    back = read_pool(tmp_path / "out").rows
    same = [c for c in back.columns if not c.startswith("solved_")]
    assert back.equals(ledger.selected.sort("id").select(same))


@pytest.mark.parametrize("prefix", ["", "deepseek"])
def test_a_missing_trace_is_still_missing_in_what_curation_wrote(tmp_path: Path, prefix: str) -> None:
    rows = small_pool().rows.with_columns(
        thinking=pl.when(pl.col("id") == "r01").then(None).otherwise("thinking")
    )
    rows = rows.with_columns(chosen=pl.lit("drawn"))
    (tmp_path / "out").mkdir()
    dataset_rows(rows, prefix).write_parquet(tmp_path / "out" / "dataset.parquet")
    write_stage(run_stages(pool_of_frame(rows), ["collect"]), tmp_path / "stage")
    for folder in ("out", "stage"):
        back = read_pool(tmp_path / folder).rows
        assert back.filter(pl.col("thinking").is_null())["id"].to_list() == ["r01"]
        with pytest.raises(BadInput, match="r01 has no thinking"):
            read_traces(tmp_path / folder)


def test_a_finished_folder_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    curate(small_pool(), CurateSettings(n=5), out)
    with pytest.raises(BadInput, match="not empty"):
        curate(small_pool(), CurateSettings(n=6), out)
    assert json.loads((out / "ledger.json").read_text())["selected"] == 5


def test_a_failure_while_writing_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(ledger: Ledger) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("s1.data.output.report", fail)
    with pytest.raises(OSError, match="disk full"):
        curate(small_pool(), CurateSettings(n=5), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_notes_say_what_could_not_be_checked() -> None:
    ledger = curate(pool_of_frame(small_frame().drop("solved_small", "domain")), CurateSettings(n=50))
    notes = " ".join(ledger.notes)
    for part in ("No benchmark", "No solved_MODEL column", "50 were requested", "no domain"):
        assert part in notes
    with pytest.raises(BadInput, match="after clean: {'no trace': 20}"):
        curate(pool_of_frame(small_frame().drop("thinking")))
    for wrong in ({"n": 0}, {"ngram": -1}, {"most_solved": 1.5}, {"near": -0.1}, {"near": 1.5}):
        with pytest.raises(BadConfig):
            CurateSettings(**wrong)  # type: ignore[arg-type]
    assert from_json(CurateSettings, to_json(CurateSettings())) == CurateSettings()


@pytest.fixture(scope="module")
def misguided(shared_data: Path) -> Pool:
    return read_pool(shared_data / "traces/misguided_attention.parquet", {"domain": "question_id"})


def test_token_counts_of_real_traces_are_the_published_ones(shared_data: Path, misguided: Pool) -> None:
    rows = misguided.rows.sort("trace_tokens")[:1000:5]
    counted = with_trace_tokens(rows, shared_data / "tokenizers/qwen2.5-instruct")
    assert counted["trace_tokens"].equals(rows["trace_tokens"])


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        (
            CurateSettings(duplicates="trace"),
            {"clean": 1760, "difficulty": 1760, "decontaminate": 1760, "select": 1000},
        ),
        (
            CurateSettings(duplicates="trace", profile="official"),
            {"decontaminate": 1865, "clean": 1865, "difficulty": 1865, "select": 1000},
        ),
    ],
)
def test_the_pipeline_over_2024_real_traces(
    shared_data: Path, misguided: Pool, settings: CurateSettings, counts: dict[str, int]
) -> None:
    bench = read_benchmarks([shared_data / "benchmarks" / f"{b}.jsonl" for b in ("math500", "aime2024")])
    ledger = curate(misguided, settings, benchmarks=bench)
    assert {s.name: s.rows_out for s in ledger.stages} == {"reading": 1865, **counts}
    assert ledger.stage("reading").rows_in == 2024 and ledger.tables["hits.jsonl"].height == 0
    if settings.profile == "strict":
        dropped = {"empty answer": 67, "cut trace": 36, "repetition loop": 2}
        assert dict(ledger.stage("clean").dropped) == dropped
        kept = misguided.index.filter(
            ~pl.col("id").is_in(ledger.rejected.filter(stage="clean")["id"].to_list())
        )
        assert duplicate_reasons(kept).null_count() == 52  # the default leaves one trace a question
    # 52 puzzles as domains: the draw evens them out.
    assert ledger.selected["domain"].value_counts()["count"].max() <= 30
    if settings.profile == "official":
        shuffled = misguided.rows.sample(fraction=1.0, shuffle=True, seed=3)
        again = pool_of_frame(shuffled, rejects=misguided.rejects, files=misguided.files)
        assert curate(again, settings, benchmarks=bench).to_json() == ledger.to_json()
