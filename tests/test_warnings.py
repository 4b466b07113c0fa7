"""What libraries will drop and s1 still uses fails a test; what they use of each other does not."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest

KINDS = [DeprecationWarning, FutureWarning]


def warn_in(module: str, kind: type[Warning], message: str = "old") -> None:
    exec(
        "import warnings; warnings.warn(message, kind)",
        {"__name__": module, "message": message, "kind": kind},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_warnings_about_s1_are_errors_and_others_are_not(kind: type[Warning]) -> None:
    for module in ("s1", "s1.engines.hf", "test_something"):
        with pytest.raises(kind, match="old"):
            warn_in(module, kind)
    for module in ("s1x", "elsewhere", "transformers.trainer"):
        warn_in(module, kind)


def test_an_argument_that_a_model_deprecates_is_an_error() -> None:
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def forward(self, **given: Any) -> None:
            warnings.warn("`old` is deprecated", FutureWarning, stacklevel=2)

    with pytest.raises(FutureWarning, match="old"):
        Model()(old=1)


@pytest.mark.parametrize("kind", ["llama", "qwen3_next"])
def test_a_real_one_of_transformers_is_an_error(kind: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tiny_models import tiny

    from s1.engines.hf_checkpoint import checkpoint_facts

    if checkpoint_facts(tiny("llama", vocab=9), None).cache_argument == "past_key_values":
        pytest.skip("this transformers does not deprecate past_key_values")
    model, ids = tiny(kind, vocab=9), torch.zeros((1, 1), dtype=torch.long)
    with pytest.raises(FutureWarning, match="past_key_values"):
        model(input_ids=ids, past_key_values=transformers.DynamicCache(config=model.config))


def test_what_transformers_says_in_its_log_is_an_error_also_where_the_command_quietens_it() -> None:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.set_verbosity_error()
    log = logging.getLogger("transformers.modeling_utils")
    log.warning("This is for you to know.")
    with pytest.raises(FutureWarning, match="torch_dtype"):
        log.warning("`torch_dtype` is deprecated! Use `dtype` instead!")
