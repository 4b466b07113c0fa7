from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from s1.data.curate_settings import CurateSettings
from s1.data.output import FILES
from s1.data.pipeline import curate
from s1.data.pool import conform, read_pool
from s1.errors import BadInput, S1Error

ROOT = Path(__file__).parents[2]


def pool_file(path: Path, count: int = 600) -> Path:
    rows = [
        {
            "id": f"r{i:04d}", "question": f"what is {i} plus {i * 7} in this little world of tests?",
            "thinking": f"it is {i * 8} , and so {i * 8} .", "attempt": str(i * 8), "answer": str(i * 8),
            "source": "s", "domain": f"d{i % 9}", "correct": i % 2 == 0, "trace_tokens": i % 50,
            "solved_m": float(i % 4 == 0),
        }
        for i in range(count)
    ]  # fmt: skip
    conform(pl.DataFrame(rows)).write_parquet(path, row_group_size=30)
    return path


def refuse(item: int) -> int:
    raise BadInput("nothing for it.", "Do without.")


def slowly(function: Callable[[Any], Any], item: Any) -> Any:
    time.sleep(0.2)  # or all would be done before the node is killed
    return function(item)


def last_first(item: int) -> int:
    time.sleep(0.2 * (4 - item))
    return item


SCRIPT = """
import sys
import time
from functools import partial
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

sys.path[:0] = sys.argv[1:3]
from s1.data.curate_settings import CurateSettings
from s1.data.executor import open_executor
from s1.data.pipeline import curate
from s1.data.pool import read_pool
from test_executor import last_first, refuse, slowly

folder = Path(sys.argv[3])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
other = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()

class Watched:
    '''The Ray executor; the second node is killed after five results.'''

    def __init__(self, inner):
        self.inner, self.done = inner, 0

    def __call__(self, function, items):
        slow = function if self.done >= 5 else partial(slowly, function)
        for result in self.inner(slow, items):
            self.done += 1
            if self.done == 5:
                cluster.remove_node(other, allow_graceful=False)
            yield result

with open_executor("ray", address=cluster.address) as executor:
    try:
        list(executor(refuse, [1]))
    except Exception as error:
        print("raised", type(error).__name__, error, flush=True)
    print("order", *executor(last_first, range(4)), flush=True)
    watched = Watched(executor)
    pool = read_pool(folder / "p.parquet", work=folder / "work", executor=watched, piece_bytes=3000)
    curate(pool, CurateSettings(n=40, near=0.9), folder / "ray")
    limit = time.monotonic() + 60  # the head takes a while to notice
    while sum(n["Alive"] for n in ray.nodes()) > 1 and time.monotonic() < limit:
        time.sleep(0.2)
    print("parts", len(pool.parts), "alive", sum(n["Alive"] for n in ray.nodes()), flush=True)
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # two nodes are started, each with processes of its own
def test_ray_gives_the_same_bytes_with_a_node_killed_on_the_way(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pool_file(tmp_path / "p.parquet")
    pool = read_pool(tmp_path / "p.parquet", work=tmp_path / "w", piece_bytes=3000)
    curate(pool, CurateSettings(n=40, near=0.9), tmp_path / "local")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "data")])
    environment = {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(script), str(ROOT), str(ROOT / "tests" / "data"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "raised BadInput nothing for it. Do without." in done.stdout
    assert "order 0 1 2 3" in done.stdout
    assert f"parts {len(pool.parts)} alive 1" in done.stdout
    for name in FILES:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from s1.data.executor import open_executor
    from s1.errors import MissingExtra

    blocked: Any = None
    monkeypatch.setitem(sys.modules, "ray", blocked)
    with pytest.raises(MissingExtra, match=r"\[ray\]"), open_executor("ray"):
        pass


def test_an_absent_cluster_is_reported_at_once() -> None:
    pytest.importorskip("ray")
    from s1.data.executor import open_executor

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(S1Error, match=address), open_executor("ray", address=address):
            pass
