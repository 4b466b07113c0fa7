import random

import pytest

from s1.petri.tasks import split_of
from scripts.petri.documents import LATE_MIX, MIX, document, late_document, windows
from scripts.petri.tokenizer import word_ids


@pytest.mark.parametrize("make", [document, late_document])
def test_pre_training_never_holds_a_self_checking_trace_or_a_held_out_question(make):
    rng = random.Random(0)
    for _ in range(3000):
        text = " ".join(part for part, _ in make(rng, 12))
        words = text.split()
        assert not {"Wait", "maybe", "<think>", "</think>", "nothing", "new"} & set(words)
        for opener in ("problem ", "<|user|> "):
            if text.startswith(opener):
                question = text.removeprefix(opener).split(" . ")[0].split(" <|assistant|>")[0]
                assert split_of(question) == "train"


@pytest.mark.parametrize(("make", "mix"), [(document, MIX), (late_document, LATE_MIX)])
def test_every_kind_of_document_is_made_of_known_words_and_has_something_to_learn(make, mix, monkeypatch):
    rng = random.Random(1)
    known = word_ids()
    for kind in list(mix):
        for other in mix:
            monkeypatch.setitem(mix, other, int(other == kind))
        for _ in range(50):
            parts = make(rng, 12)
            assert all(word in known for text, _ in parts for word in text.split()), kind
            assert any(trained for _, trained in parts)


def test_windows_have_their_length_and_the_same_seed_gives_the_same_stream():
    one, two = windows(random.Random(3), 64, word_ids()), windows(random.Random(3), 64, word_ids())
    for _ in range(20):
        (ids, mask), again = next(one), next(two)
        assert len(ids) == len(mask) == 65
        assert (ids, mask) == again
