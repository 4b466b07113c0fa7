"""What `s1 train` does with a folder that is not empty; real training is in the end-to-end tests."""

import json

import pytest

from s1.errors import BadConfig
from s1.train.result_folder import CHECKPOINTS, RECORD, is_finished, last_checkpoint

RUN = {"base": "b", "rows_sha256": "1"}


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_the_same_run_is_finished_or_resumed_and_any_other_is_refused(tmp_path):
    out = tmp_path / "model"
    assert not is_finished(out, RUN)
    put(out / CHECKPOINTS / RECORD, json.dumps(RUN))
    assert not is_finished(out, RUN)
    with pytest.raises(BadConfig, match="other data"):
        is_finished(out, {**RUN, "rows_sha256": "2"})
    put(out / RECORD, json.dumps({**RUN, "loss": 0.1}))
    assert is_finished(out, RUN)
    with pytest.raises(BadConfig, match="other data"):
        is_finished(out, {**RUN, "rows_sha256": "2"})


def test_a_folder_or_file_with_other_content_is_refused(tmp_path):
    put(tmp_path / "run" / "config.json", "{}")
    with pytest.raises(BadConfig, match="no run"):
        is_finished(tmp_path / "run", RUN)
    put(tmp_path / "file", "")
    with pytest.raises(BadConfig, match="is a file"):
        is_finished(tmp_path / "file", RUN)


def test_training_resumes_from_the_last_complete_checkpoint_only(tmp_path):
    for step, state in ((5, "{}"), (10, '{"torn'), (15, None)):
        put(tmp_path / f"checkpoint-{step}" / "model.safetensors", "")
        if state is not None:
            put(tmp_path / f"checkpoint-{step}" / "trainer_state.json", state)
    put(tmp_path / "checkpoint-20" / "trainer_state.json", "{}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-5"


def test_a_checkpoint_in_shards_is_complete_with_its_index_and_every_shard(tmp_path):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    for step, text, shards in (
        (5, index, (1, 2)),
        (10, index, (1,)),
        (15, '{"torn', (1, 2)),
        (20, "{}", (1,)),
    ):
        checkpoint = tmp_path / f"checkpoint-{step}"
        put(checkpoint / "trainer_state.json", "{}")
        put(checkpoint / "model.safetensors.index.json", text)
        for shard in shards:
            put(checkpoint / f"model-{shard}.safetensors", "")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
