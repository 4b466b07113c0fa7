from collections import Counter

from s1.evals.benchmarks import load_benchmark
from s1.petri import world
from s1.petri.tasks import FAMILIES


def test_the_benchmark_is_known_by_name_and_a_shorter_one_is_its_beginning():
    whole, short = load_benchmark("petri"), load_benchmark("petri", 30)
    assert (len(whole.questions), whole.kind) == (500, "exact")
    assert short.questions == whole.questions[:30] == world.questions(30)
    assert Counter(q.meta["family"] for q in short.questions) == dict.fromkeys(FAMILIES, 3)


def test_every_family_has_every_difficulty_equally_often():
    cells = Counter((q.meta["family"], q.meta["difficulty"]) for q in world.questions(500))
    assert len(cells) == 100 and set(cells.values()) == {5}


def test_the_pool_has_the_columns_of_a_pool_and_no_audit_column():
    pool = world.pool(300)
    assert "flaw" not in pool.rows.columns and pool.rows.height == 300
    assert pool.rows["trace_tokens"].null_count() == pool.rows["thinking"].null_count() > 0
