from __future__ import annotations

import pickle

import pytest

from s1.errors import BadInput, EngineFailure, MissingExtra, S1Error, first_error, nearest


@pytest.mark.parametrize(
    "error",
    [BadInput("No such file.", "Name another."), MissingExtra("ray", "ray"), EngineFailure("It broke.")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_back_whole_from_another_process(error: S1Error) -> None:
    error.add_note("row 7")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and again.hint == error.hint
    assert again.__notes__ == ["row 7"]


def test_of_a_group_the_error_for_the_user_is_raised() -> None:
    mine = BadInput("This one.")
    assert first_error(BaseExceptionGroup("", [ValueError(), ExceptionGroup("", [mine])])) is mine
    plain = BaseExceptionGroup("", [ValueError()])
    assert first_error(plain) is plain


def test_the_nearest_name_is_named_and_all_that_there_are() -> None:
    hint = nearest("majorty", ["rebase", "majority"])
    assert hint == "Did you mean 'majority'? Known: majority, rebase."
