import pytest

from s1.config import load_settings, parse_value
from s1.data.curate_settings import CurateSettings
from s1.errors import BadConfig
from s1.train.settings import TrainSettings


def test_pairs_and_file_change_only_what_they_name(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("epochs: 2\nlearning_rate: 0.001\n")
    settings = load_settings(TrainSettings(), file, ["epochs=3"])
    assert (settings.epochs, settings.learning_rate, settings.batch) == (3, 0.001, TrainSettings().batch)


@pytest.mark.parametrize("text", ["Answer: ", "12", "", "[a, b]", "true", "Result # "])
def test_a_setting_that_is_text_takes_what_yaml_reads_as_something_else(text):
    assert load_settings(TrainSettings(), None, [f"answer_prefix={text}"]).answer_prefix == text
    quoted = load_settings(TrainSettings(), None, ["answer_prefix='Answer: '"])
    assert quoted.answer_prefix == "Answer: "


def test_a_dot_reaches_inside():
    assert load_settings(CurateSettings(), None, ["clean.word_run=7"]).clean.word_run == 7


def test_all_misspelt_names_are_listed_with_the_nearest_valid_one():
    with pytest.raises(BadConfig, match=r"'epoch', did you mean 'epochs'\?.*'batchs', did you mean 'batch'"):
        load_settings(TrainSettings(), None, ["epoch=3", "batchs=1"])


@pytest.mark.parametrize("pairs", [["epochs=many"], ["epochs"], ["=3"], ["quality=1"]])
def test_a_value_of_the_wrong_type_or_shape_is_one_clear_error(pairs):
    with pytest.raises(BadConfig):
        load_settings(CurateSettings() if pairs == ["quality=1"] else TrainSettings(), None, pairs)


def test_a_word_that_is_none_of_the_choices_is_refused_with_all_of_them():
    with pytest.raises(BadConfig, match="profile.*'strict', 'official'.*'oficial'"):
        load_settings(TrainSettings(), None, ["profile=oficial"])


@pytest.mark.parametrize("text", ["- a\n", "a: [", "epochs: {a: 1}\n"])
def test_a_file_that_is_no_mapping_is_named(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(BadConfig):
        load_settings(TrainSettings(), file)
    with pytest.raises(BadConfig, match="no such file"):
        load_settings(TrainSettings(), tmp_path / "none.yaml")


def test_an_exponent_without_a_point_is_a_number():
    assert (parse_value("3e-4"), parse_value("1E5"), parse_value("e4"), parse_value("3")) == (
        3e-4,
        1e5,
        "e4",
        3,
    )
