"""Precision and recall of the search for repetition loops, on real traces and on damaged copies of them.

Real traces: every trace that the search takes for a loop is printed with its repeated end, to be read. Damaged
copies: a loop of a known kind is put at the end of a trace, or into it, so the recall is known. Ordinary copies:
a rule, a table, a calculation or a list is put into a trace instead; each one that is dropped is a false alarm.
Where the loop goes, and what is repeated, is drawn from the seed and the trace.

Run: python benchmarks/curation_loops.py [--copies 100] [--seed 0] [--data FOLDER]
FOLDER holds traces/*.jsonl and traces/*.parquet with a column `trace`: by default those that the tests use, 2,024
traces of 14 models (MisguidedAttention, CC0), ten of R1 and 125 of Marco-o1. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl

from s1.data.curate_settings import CleanSettings
from s1.data.repetition import find_loops

HERE = Path(__file__).resolve().parent
CHINESE = "我们需要再检查一下这个答案是否正确，因为题目的条件还没有全部使用。然后再计算一次面积和周长。"
JAPANESE = "もう一度この答えが正しいかどうかを確認する必要があります。そして条件を全部使ったか見直します。"
THAI = "เราต้องตรวจสอบคำตอบนี้อีกครั้งเพราะยังไม่ได้ใช้เงื่อนไขทั้งหมดแล้วจึงคำนวณพื้นที่ใหม่"
RUSSIAN = "Нам нужно ещё раз проверить этот ответ, потому что условие использовано не полностью. "

Draw = random.Random


def words_of(text: str, count: int, draw: Draw) -> str:
    """So many words in a row of a text, as they stand."""
    words = text.split(" ")
    start = draw.randrange(max(1, len(words) - count))
    return " ".join(words[start : start + count])


def part_of(text: str, draw: Draw) -> str:
    start = draw.randrange(len(text) // 2)
    return text[start : start + draw.randint(12, len(text) - start)]


def phrase(least: int, most: int, times: tuple[int, int], between: str = " ") -> Callable[[str, Draw], str]:
    def loop(text: str, draw: Draw) -> str:
        return (words_of(text, draw.randint(least, most), draw) + between) * draw.randint(*times)

    return loop


def numbered(text: str, draw: Draw) -> str:
    words = [w for w in words_of(text, 12, draw).split() if w.isalpha()] or ["check", "it", "once", "more"]
    start, name = draw.randint(1, 20), draw.choice(["Step", "Check", "Attempt", "Case"])
    end = draw.choice(["\n", "\n\n", " "])
    return "".join(
        f"{name} {start + i}: let me {' '.join(words)}.{end}" for i in range(draw.randint(16, 150))
    )


def reworded(text: str, draw: Draw) -> str:
    """The same paragraph with one word in fifteen exchanged each time: not an exact repetition."""
    base = words_of(text, 60, draw).split(" ")
    copies = []
    for _ in range(20):
        copy = list(base)
        for at in draw.sample(range(len(copy)), len(copy) // 15 or 1):
            copy[at] = draw.choice(base)
        copies.append(" ".join(copy))
    return "\n\n".join(copies)


LOOPS: dict[str, Callable[[str, Draw], str]] = {
    "a word, 8 to 200 times": lambda t, d: (d.choice(["wait", "no,", "the", "so"]) + " ") * d.randint(8, 200),
    "2 to 10 words, over 40 to 400 words": phrase(2, 10, (20, 40)),
    "a sentence of 10 to 30 words, 5 to 60 times": phrase(10, 30, (5, 60)),
    "a paragraph of 40 to 150 words, 4 to 25 times": phrase(40, 150, (4, 25), "\n\n"),
    "a section of 300 to 1,500 words, 3 to 6 times": phrase(300, 1500, (3, 6), "\n\n"),
    "Chinese, 8 to 60 times": lambda t, d: part_of(CHINESE, d) * d.randint(8, 60),
    "Japanese, 8 to 60 times": lambda t, d: part_of(JAPANESE, d) * d.randint(8, 60),
    "Thai, 8 to 60 times": lambda t, d: part_of(THAI, d) * d.randint(8, 60),
    "Russian, 5 to 60 times": lambda t, d: RUSSIAN * d.randint(5, 60),
    "no spaces (no-no-no-)": lambda t, d: d.choice(["no-", "ha", "=>x", "ok,"]) * d.randint(100, 400),
    "numbered steps, 16 to 150": numbered,
    "a paragraph with 1 word in 15 exchanged, 20 times": reworded,
}
ORDINARY: dict[str, Callable[[str, Draw], str]] = {
    "a rule of 40 to 400 marks": lambda t, d: d.choice("-=_~*#.─━") * d.randint(40, 400),
    "a table of numbers": lambda t, d: "| n | n^2 | odd |\n|---|---|---|\n"
    + "".join(f"| {n} | {n * n} | {'yes' if n % 2 else 'no'} |\n" for n in range(d.randint(5, 80))),
    "a table of words": lambda t, d: "| who | says | so |\n|---|---|---|\n"
    + "".join(f"| {d.choice('ABC')} | knight | {d.choice(['true', 'false'])} |\n" for _ in range(d.randint(4, 40))),
    "a frame": lambda t, d: ("+---" * 12 + "+\n" + "|   " * 12 + "|\n") * d.randint(2, 9),
    "a calculation of 5 to 40 lines": lambda t, d: "".join(
        f"For n = {n} we get {n}^2 + {d.randint(1, 999)} = {n * n + d.randint(1, 999)}.\n"
        for n in range(d.randint(5, 40))
    ),
    "numbers from 1 on": lambda t, d: ", ".join(map(str, range(1, d.randint(20, 400)))),
    "a matrix of 0 and 1": lambda t, d: "\n".join(
        " ".join(d.choice("01") for _ in range(8)) for _ in range(d.randint(3, 12))
    ),
    "a long number": lambda t, d: str(d.getrandbits(d.randint(300, 2000))),
    "a sentence said twice more": lambda t, d: (words_of(t, d.randint(8, 30), d) + " ") * 3,
    "a solution written out again": lambda t, d: "\n\nLet me write this again.\n\n" + t[-1500:],
}  # fmt: skip


def real_traces(folder: Path) -> list[str]:
    frames = [pl.read_parquet(f, columns=["trace"]) for f in sorted(folder.glob("traces/*.parquet"))]
    for file in sorted(folder.glob("traces/*.jsonl")):
        rows = pl.read_ndjson(file, infer_schema_length=None)
        if "trace" in rows.columns:
            frames.append(rows.select("trace"))
    return [t for t in pl.concat(frames)["trace"].to_list() if t and t.strip()]


def placed(text: str, made: str, draw: Draw, at_end: bool) -> str:
    """`made` in a text, at the end of a line or word; cut off in the middle where it ends the text."""
    if at_end:
        return text + "\n\n" + made[: len(made) - draw.randrange(1 + min(len(made) // 10, 20))]
    words = text.split(" ")
    at = draw.randrange(len(words))
    return " ".join([*words[:at], "\n\n" + made + "\n\n", *words[at:]])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--copies", type=int, default=100, help="damaged copies of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    args = parser.parse_args()
    if not (args.data / "traces").is_dir():
        parser.error(f"{args.data} has no folder `traces`; name one with --data.")
    rules = CleanSettings()
    traces = real_traces(args.data)
    looped = find_loops(pl.Series(traces), rules)
    print(f"{len(traces)} real traces, {looped.sum()} taken for loops. Their last 160 characters:\n")
    for number in looped.arg_true():
        print(f"- trace {number}: {' '.join(traces[number].split())[-160:]!r}")
    whole = [t for t, is_loop in zip(traces, looped, strict=True) if not is_loop and len(t) > 400]
    for title, kinds, right in (("loops", LOOPS, True), ("ordinary text", ORDINARY, False)):
        print(
            f"\n| {title} put into real traces | copies | {'found' if right else 'kept'} |\n|---|---:|---:|"
        )
        total = good = 0
        for kind, make in kinds.items():
            draw = random.Random(f"{args.seed} {kind}")
            texts = []
            for number in range(args.copies):
                text = draw.choice(whole)
                texts.append(placed(text, make(text, draw), draw, at_end=right and number % 2 == 0))
            hits = sum(found == right for found in find_loops(pl.Series(texts), rules))
            print(f"| {kind} | {len(texts)} | {hits} |")
            total, good = total + len(texts), good + hits
        print(f"| all | {total} | {good} |")


if __name__ == "__main__":
    main()
