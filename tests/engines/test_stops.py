"""Stops are found wherever they fall, however the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s1.engines.stops import StopMatcher, Vocabulary, plan_stops
from s1.engines.tokenizer import LocalTokenizer
from s1.errors import BadInput
from s1.types import Stop

# A toy byte-level tokenizer: ids 0-255 are bytes, then pieces with ends and beginnings of stops inside, then
# two added tokens. Texts are encoded longest piece first.
PIECES = [
    b"ab",
    b"ba",
    b"aba",
    b".\n",
    b"\n\n",
    b".\n\n",
    "é".encode(),
    "中".encode(),
    b"\xad</",
    b"</a",
    b"b>",
    b"<",
]
ADDED = {256 + len(PIECES): b"<|end|>", 257 + len(PIECES): b"<|im|>"}
END, IM = ADDED


def bytes_of(token: int) -> bytes:
    return ADDED.get(token) or (bytes([token]) if token < 256 else PIECES[token - 256])


def encode(text: str) -> list[int]:
    data, ids, known = (
        text.encode(),
        [],
        {p: i + 256 for i, p in enumerate(PIECES)} | {b: i for i, b in ADDED.items()},
    )
    while data:
        piece = max((p for p in known if data.startswith(p)), key=len, default=data[:1])
        ids.append(known.get(piece, piece[0]))
        data = data[len(piece) :]
    return ids


VOCABULARY = Vocabulary(bytes_of, encode, frozenset(ADDED))


def stop_of(text: str) -> Stop:
    return Stop(text, tuple(encode(text)))


def run(ids, stops, **how):
    """What came out, and the stop."""
    return fed(ids, stops, **how)[:2]


def fed(ids, stops, *, cuts=(), min_tokens=0):
    """Feed `ids` in pieces that end at `cuts`: everything that came out or is still held at a stop that came too early,
    the stop, and the id at which it was too early."""
    matcher = StopMatcher(plan_stops(stops, VOCABULARY), VOCABULARY, min_tokens=min_tokens)
    out: list[int] = []
    borders = [0, *sorted(c for c in cuts if 0 < c < len(ids)), len(ids)]
    for a, b in zip(borders, borders[1:], strict=False):
        new, stop = matcher.feed(ids[a:b])
        out.extend(new)
        if stop:
            return out + list(matcher.held if matcher.early is not None else ()), stop, matcher.early
    return out + list(matcher.flush()), None, None


def naive(ids, stops, min_tokens):
    """The same from whole texts: after each id, look through all text so far. The text kept, the stop, and how many ids
    come before a stop that is too early (None where it is not)."""
    for n in range(1, len(ids) + 1):
        text = b"".join(map(bytes_of, ids[:n]))
        before = [len(b"".join(map(bytes_of, ids[:k]))) for k in range(n + 1)]
        for least in (min(n, min_tokens), 0):
            floor = before[least]
            found = []
            for stop in stops:
                if len(stop.ids) == 1 and ids[n - 1] == stop.ids[0] and n > least:
                    found.append((before[n - 1], -len(stop.text), stop))
                first = n - len(stop.ids)
                if len(stop.ids) > 1 and first >= least and tuple(ids[first:n]) == stop.ids:
                    found.append((before[first], -len(stop.text), stop))
                if not (len(stop.ids) == 1 and stop.ids[0] in ADDED) and stop.text.encode() in text[floor:]:
                    found.append((text.index(stop.text.encode(), floor), -len(stop.text), stop))
            if found:
                at, _, stop = min(found, key=lambda f: f[:2])
                early = max(k for k in range(n) if before[k] <= at)
                return text[:at], stop, early if early < min_tokens else None
    return b"".join(map(bytes_of, ids)), None, None


some_ids = st.lists(
    st.sampled_from([*range(256, 258 + len(PIECES)), *b"ab<>/.\n", *"é中".encode(), 0x80, 0xE4]), max_size=24
)
some_stops = st.lists(
    st.sampled_from(["<|end|>", "aba", "</ab>", "\n\n", ".\n", "é", "a", "<|im|>ab", "中</", "abab"]).map(
        stop_of
    ),
    max_size=4,
    unique=True,
)


@settings(max_examples=1500, deadline=None)
@given(some_ids, some_stops, st.sets(st.integers(1, 23)), st.integers(0, 6))
@example(encode("中")[:1] * 3, [stop_of("中</")], set(), 0)
def test_the_matcher_agrees_with_a_search_through_the_whole_text(ids, stops, cuts, min_tokens):
    out, stop, dropped = fed(ids, stops, cuts=cuts, min_tokens=min_tokens)
    text, expected, early = naive(ids, stops, min_tokens)
    assert stop == expected
    if stop is None:
        assert out == ids
    elif early is not None:  # the ids before the one in which the stop begins, without a half character
        assert out == ids[: len(out)] and dropped == ids[len(out)]
        assert len(out) == early or bytes_of(ids[early])[0] & 0xC0 == 0x80
    else:
        assert len(out) <= len(ids)
        made = b"".join(map(bytes_of, out))
        # What is kept is the text before the stop, unless its last, cut token is no text or needs more ids.
        assert text.startswith(made)
        if made != text:
            assert min_tokens <= len(out)
    assert (out, stop, dropped) == fed(ids, stops, cuts=(), min_tokens=min_tokens)
    assert (out, stop, dropped) == fed(ids, stops, cuts=range(1, 30), min_tokens=min_tokens)


def test_a_single_added_token_stops_by_id_and_its_spelled_out_text_does_not():
    spelled = list(b"<|end|>")
    assert run([97, END, 98], [stop_of("<|end|>")]) == ([97], stop_of("<|end|>"))
    assert run(spelled, [stop_of("<|end|>")]) == (spelled, None)


def test_a_stop_cut_into_other_tokens_than_the_tokenizer_makes_is_found():
    stop = stop_of("</ab>")
    assert run([97, *b"</ab>"], [stop]) == ([97], stop)
    assert run([97, 256 + PIECES.index(b"</a"), 256 + PIECES.index(b"b>")], [stop]) == ([97], stop)


def test_text_before_a_stop_in_the_same_token_is_encoded_again():
    stop = stop_of("\n\n")
    assert run([97, 256 + PIECES.index(b".\n\n")], [stop]) == ([97, ord(".")], stop)


def test_a_character_split_before_a_stop_is_kept_whole():
    middle = "中".encode()
    stop = stop_of("</")
    ids = [middle[0], middle[1], 256 + PIECES.index(b"\xad</")]
    assert run(ids, [stop], cuts=(1, 2)) == (encode("中"), stop)


def test_ids_that_may_begin_a_stop_are_held_back_and_the_others_are_not():
    matcher = StopMatcher(plan_stops([stop_of("</ab>")], VOCABULARY), VOCABULARY)
    assert matcher.feed([120, ord("<")]).ids == (120,)
    assert matcher.feed([ord("/")]).ids == ()
    assert matcher.feed([120]).ids == (ord("<"), ord("/"), 120)
    assert matcher.feed([ord("<")]).ids == ()
    assert matcher.flush() == (ord("<"),)


def test_a_stop_before_min_tokens_is_dropped_and_says_where_it_began():
    stop = stop_of("aba")
    assert fed([120, *b"aba", 121], [stop], min_tokens=2) == ([120], stop, ord("a"))
    assert fed([120, *b"aba", 121], [stop], min_tokens=1) == ([120], stop, None)
    # What follows may complete a stop together with what was kept.
    matcher = StopMatcher(plan_stops([stop_of("ab<")], VOCABULARY), VOCABULARY, min_tokens=9)
    assert matcher.feed([*b"aab<"]) == ((ord("a"),), stop_of("ab<")) and matcher.held == ()
    assert matcher.feed(b"b<") == ((), stop_of("ab<")) and matcher.early == ord("b")


def test_of_stops_completed_together_the_first_then_the_longest_wins():
    assert run(list(b"xab"), [stop_of("b"), stop_of("ab")])[1] == stop_of("ab")
    assert run([120, 256 + PIECES.index(b"\n\n")], [stop_of("\n"), stop_of("\n\n")])[1] == stop_of("\n\n")


def test_a_stop_without_text_is_refused():
    with pytest.raises(BadInput, match="no text"):
        plan_stops([Stop("", (3,))], VOCABULARY)


def sentencepiece():
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = ["<unk>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁", "a", "n", "▁a", "▁an", "é"]
    raw = Tokenizer(
        models.BPE(
            vocab={piece: n for n, piece in enumerate(pieces)},
            merges=[("▁", "a"), ("▁a", "n")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return raw


def byte_level():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: n for n, c in enumerate([*alphabet, "an", "Ġan", "</s>"])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "n"), ("Ġ", "an")]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return raw


def whole_characters():
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    raw = Tokenizer(
        models.WordLevel({c: n for n, c in enumerate([*" anéx漢🙂\n", "</s>"])}, unk_token="</s>")
    )
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return raw


@pytest.mark.parametrize("make", [sentencepiece, byte_level, whole_characters])
def test_the_bytes_of_ids_are_those_of_their_text_for_every_kind_of_tokenizer(make):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=make(), eos_token="</s>")
    vocabulary = LocalTokenizer(tokenizer, name="test", eos=(), folder=None).vocabulary
    assert vocabulary is not None
    text = " an é 漢🙂 nax\n an</s>"
    ids = vocabulary.encode(text)
    assert b"".join(map(vocabulary.bytes_of, ids)).decode() == text
    assert vocabulary.added == {tokenizer.eos_token_id} == {ids[-1]}
