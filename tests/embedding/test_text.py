"""Text to ids: template, pooled range, truncation, and texts nobody expects."""

import numpy as np
import pytest

from diffembed.backbones.tiny import build_tokenizer
from diffembed.embedding.text import TextTemplate, Tokenizer, clean
from diffembed.errors import ConfigError, InputError, OverflowingTextError, UnknownNameError

BOS, EOS = 2, 1


def make(template=None, *, max_tokens=50, pools_special_tokens=False):
    return Tokenizer(
        build_tokenizer(), template or TextTemplate(), max_tokens=max_tokens, pools_special_tokens=pools_special_tokens
    )


def plain_ids(text):
    return build_tokenizer()(text, add_special_tokens=False).input_ids


def pooled(tokens):
    return tokens.ids[tokens.pool_start : tokens.pool_stop].tolist()


def test_document_is_bos_and_text_and_bos_is_not_pooled():
    (text,) = make().encode(["a language model"], kind="document")
    assert text.windows[0].ids.tolist() == [BOS, *plain_ids("a language model")]
    assert pooled(text.windows[0]) == plain_ids("a language model")


def test_instruction_is_read_and_not_pooled():
    (text,) = make().encode(["model"], kind="query", instruction="find a document")
    assert text.windows[0].ids.tolist() == [BOS, *plain_ids("find a document\n"), *plain_ids("model")]
    assert pooled(text.windows[0]) == plain_ids("model")


def test_instruction_is_pooled_where_the_template_says_so():
    (text,) = make(TextTemplate(pools_instruction=True)).encode(["model"], kind="query", instruction="find")
    assert pooled(text.windows[0]) == plain_ids("find\n") + plain_ids("model")


def test_none_is_the_default_instruction_and_empty_is_none():
    tokenizer = make(TextTemplate(default_instruction="find"))
    default, named, none = (
        tokenizer.encode(["model"], kind="query", instruction=instruction)[0].windows[0].ids.tolist()
        for instruction in (None, "find", "")
    )
    assert default == named != none == [BOS, *plain_ids("model")]
    assert make().encode(["model"], kind="query")[0].windows[0].ids.tolist() == none


def test_document_takes_no_instruction():
    with pytest.raises(ConfigError, match="documents take no instruction"):
        make().encode(["model"], kind="document", instruction="find")


def test_wrapper_and_eos():
    template = TextTemplate(wrapper="user: {text} end", appends_eos=True)
    (text,) = make(template).encode(["model"], kind="document")
    want = [BOS, *plain_ids("user: "), *plain_ids("model"), EOS, *plain_ids(" end")]
    assert text.windows[0].ids.tolist() == want
    assert pooled(text.windows[0]) == [*plain_ids("model"), EOS]


def test_wrapper_without_its_mark_is_refused():
    with pytest.raises(ConfigError, match=r"must contain \{text\} once"):
        TextTemplate(wrapper="user:")


def test_truncation_keeps_the_template_and_is_flagged():
    tokenizer = make(TextTemplate(appends_eos=True), max_tokens=12)
    short, long = tokenizer.encode(["a token", "a language model reads a text " * 9], kind="query", instruction="find")
    assert not short.is_truncated and long.is_truncated
    assert len(long.windows[0]) == 12 and long.windows[0].ids[-1] == EOS
    prefix = [BOS, *plain_ids("find\n")]
    assert long.windows[0].ids[: len(prefix)].tolist() == prefix


def test_exactly_the_limit_is_not_cut():
    ids = plain_ids("a language model reads")
    for spare, is_cut in ((1, False), (0, True)):
        (text,) = make(max_tokens=len(ids) + spare).encode(["a language model reads"], kind="document")
        assert text.is_truncated is is_cut


def test_chunks_cover_the_text_once():
    text = "every token into a state " * 20
    (chunked,) = make(max_tokens=16).encode([text], kind="document", overflow="chunk")
    assert len(chunked.windows) > 3 and not chunked.is_truncated
    assert [token for window in chunked.windows for token in pooled(window)] == plain_ids(text)
    assert all(len(window) <= 16 and window.ids[0] == BOS for window in chunked.windows)


def test_overflow_error_names_text_and_cure():
    with pytest.raises(OverflowingTextError, match=r"text 1 has .* 'chunk'"):
        make(max_tokens=8).encode(["a", "token " * 50], kind="document", overflow="error")
    with pytest.raises(UnknownNameError, match="truncate"):
        make().encode(["a"], kind="document", overflow="cut")


def test_instruction_that_leaves_no_room():
    with pytest.raises(ConfigError, match="tokens, the limit is 8"):
        make(max_tokens=8).encode(["a"], kind="query", instruction="a very long instruction " * 5)


@pytest.mark.parametrize(
    "text", ["\ud800 alone", "pair \ud83d\ude00 whole", "nul \x00 byte", "日本語", "😀", "x" * 5000]
)
def test_any_string_has_ids(text):
    (tokenized,) = make().encode([text], kind="document")
    assert tokenized.windows[0].pool_stop > tokenized.windows[0].pool_start
    assert tokenized.windows[0].ids.dtype == np.int32


def test_surrogates():
    assert clean("\ud800 alone") == "\ufffd alone"
    assert clean("\ud83d\ude00") == "😀", "a surrogate pair is the character it encodes"


def test_empty_text_pools_nothing_even_with_an_instruction():
    for tokenized in (*make().encode([""], kind="document"), *make().encode([""], kind="query", instruction="find")):
        assert tokenized.windows[0].pool_start == tokenized.windows[0].pool_stop


def test_not_a_string():
    with pytest.raises(InputError, match="got NoneType"):
        make().encode(["a", None], kind="document")
