"""Answers made to exhaust the grader cost it little, and what comes after them is graded as before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from monsters import POOLS, monster_pairs
from pace import slowness

from s1.grading import compare, extract_answer
from s1.grading.equivalence import SECONDS
from s1.grading.symbolic import MEMORY_BYTES

GRADE = """
import json, os, resource, sys
sys.path.insert(0, sys.argv[1])
from monsters import monster_pairs
from s1.grading import equivalent
from s1.grading.worker import WORKER

def seconds(pid):  # user time of a child that runs
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[11]) / os.sysconf("SC_CLK_TCK")

def used():
    children, running = f"/proc/self/task/{os.getpid()}/children", 0.0
    if os.path.exists(children):
        with open(children) as file:
            running = sum(map(seconds, file.read().split()))
    else:
        WORKER.close()  # the time of a child that has ended is counted everywhere
    return running + sum(
        resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )

equal, slowest = [], (0.0, 0)
for place, (gold, answer) in enumerate(monster_pairs()):
    before = used()
    equal += [(gold, answer)] * equivalent(gold, answer)
    slowest = max(slowest, (used() - before, place))
WORKER.close()
# Not RUSAGE_SELF: Linux counts into it the peak of the process that started this one, which is all of pytest.
# The children's count holds this process's own peak in the same way.
print(json.dumps([equal, slowest, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""


@pytest.mark.parametrize("pool", POOLS)
def test_a_monster_has_no_answer_in_common_with_a_plain_one(pool: str) -> None:
    for text in POOLS[pool][::7]:
        assert not compare("7", text, timeout=0.2).equal
        assert not compare(text[:1990], "x+1", timeout=0.2).equal
    assert compare("1+x", "x+1").equal


@pytest.mark.parametrize("pool", POOLS)
def test_a_monster_in_a_box_is_extracted(pool: str) -> None:
    for text in POOLS[pool]:
        extract_answer(f"So the answer is \\boxed{{{text}}}.")
        extract_answer(f"The answer is ${text}$.")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_monster_takes_more_than_the_limits_of_time_and_memory() -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", GRADE, str(here)],
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert done.returncode == 0, done.stderr
    equal, (slowest, place), peak = json.loads(done.stdout)
    assert not equal
    start = 2.0  # of a child, for importing sympy
    assert slowest < (2 * SECONDS + start) * slowness(), monster_pairs()[place]
    assert peak < 1.05 * MEMORY_BYTES
