"""The settings of curation: what a good row is, what counts as a copy, and how the thousand is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from s1.errors import BadConfig

Profile = Literal["strict", "official"]
Strategy = Literal["s1k", "random", "longest", "diverse", "full"]
Duplicates = Literal["question", "trace", "off"]
STATED_SO = r"(?:^|\s)(?:so|maybe)\s+([^.;]+?)\s*[.;]"
"""How a petri trace states an answer: "so 7 ." or "maybe 7 ."."""


@dataclass(frozen=True, slots=True)
class CleanSettings:
    """What a good row is under "strict". The petri pool uses `PETRI_CLEAN`, below."""

    ending: str | None = None
    """Pattern that a whole trace ends with. None: no letter, comma, colon or opening bracket at the end."""
    stated: str | None = None
    """Pattern whose last match in the trace has the answer as group 1, which must equal the attempt."""
    need_reference: bool = False
    """Drop questions without a reference answer."""
    token_limit: int | None = None
    """The teacher's limit in tokens: a trace that has reached it counts as cut."""
    word_run: int = 6
    """Drop when a word (something with a letter) occurs this many times in a row."""
    other_run: int = 30
    """The same for numbers and signs, which repeat more often: "4 4 4 4" can be a list of differences."""
    loop_repeats: int = 4
    loop_words: int = 30
    """Drop when a phrase is repeated `loop_repeats` times in a row over `loop_words` words or more."""
    language: Literal["any", "latin"] = "any"
    """"latin" drops traces with more than a tenth of their letters in another script than Latin or Greek."""

    def __post_init__(self) -> None:
        if min(self.word_run, self.other_run) < 6 or self.loop_repeats < 2 or self.loop_words < 12:
            raise BadConfig(
                "clean: word_run and other_run must be at least 6, loop_repeats 2 and loop_words 12.",
                "Leave them at their defaults: shorter repetitions are ordinary text.",
            )


PETRI_CLEAN = CleanSettings(ending=r"\.\s*$", stated=STATED_SO, other_run=6, loop_repeats=8)


@dataclass(frozen=True, slots=True)
class Preselect:
    """Rows taken before the draw: the teacher is right, the source matches, the trace is long enough."""

    source: str
    """Regular expression, looked for in the source without regard to case."""
    more_tokens_than: int = -1


PAPER_PRESELECT = (Preselect("aime"), Preselect("gpqa"), Preselect(r"openaimath|hendrycks_math|^math$", 5600))


@dataclass(frozen=True, slots=True)
class CurateSettings:
    """Everything that decides the outcome, besides the pool and the benchmarks."""

    n: int = 1000
    seed: int = 0
    profile: Profile = "strict"
    """ "strict" corrects what looks like an accident in the authors' code; "official" repeats it."""
    strategy: Strategy = "s1k"
    """The paper's set, or one of its ablations: random, longest, diverse (n rows each), full."""
    clean: CleanSettings = CleanSettings()
    most_solved: float = 0.0
    """Drop a question when some model solved more than this share of its attempts."""
    ngram: int = 8
    """Words in common with a benchmark question that count as a hit; 0 for exact matches only."""
    duplicates: Duplicates = "question"
    """Which rows are copies: the same question, or the same question and trace."""
    near: float = 0.0
    """Drop questions whose word 3-grams have this Jaccard index or more with those of one that stays
    (0.8 finds reworded copies); 0: off, since templated questions would be dropped too."""
    exempt_sources: str = "(?i)aime"
    """Sources that "official" exempts from decontamination (a regular expression). "strict" exempts none."""
    preselect: tuple[Preselect, ...] = PAPER_PRESELECT
    domain_weights: Mapping[str, float] = field(default_factory=dict)
    weighted_after: int | None = None
    """Draw domains by weight once so many rows are chosen. None: never, or 7 of 10 under "official"."""
    trace_prefix: str = ""
    """ "deepseek" or "gemini" names the trace columns as s1K-1.1 does."""

    def __post_init__(self) -> None:
        if self.n < 1 or self.ngram < 0 or not 0 <= self.most_solved <= 1 or not 0 <= self.near <= 1:
            raise BadConfig(
                f"Curation out of range: n {self.n}, ngram {self.ngram}, most_solved {self.most_solved}, "
                f"near {self.near}.",
                "Use n >= 1, ngram >= 0 and shares between 0 and 1.",
            )
