import numpy as np
import pytest

from diffembed import Embedder
from diffembed.documents import ChunkPolicy, cut_document
from diffembed.errors import ConfigError, UnknownNameError
from diffembed.evaluation.scoring import score_task
from diffembed.evaluation.suites.folders import read_folder
from diffembed.evaluation.systems.echo import read_echo
from diffembed.evaluation.systems.identity import hash_weights, identify
from diffembed.evaluation.systems.recipes import E5_TEMPLATE, group_names, limited
from diffembed.evaluation.systems.searching import HybridSystem, LexicalSystem
from diffembed.evaluation.tasks import Task
from diffembed.records import Document, Query


def labels(*names):
    return [group.labels for group in group_names(names)]


def test_poolings_of_one_network_share_a_group_and_order_is_kept():
    names = ("tiny:causal:last", "bm25", "tiny:causal:mean", "echo@tiny", "tiny:bidirectional:mean")
    assert labels(*names) == [
        ("tiny:causal:last", "tiny:causal:mean"),
        ("bm25",),
        ("echo@tiny",),
        ("tiny:bidirectional:mean",),
    ]
    assert labels("tiny:last:causal") == [("tiny:causal:last",)]
    assert labels("hybrid@tiny", "int8@tiny:causal", "random") == [("tiny+bm25",), ("tiny:causal+int8",), ("random",)]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("tiny", "tiny"), "tiny is named twice"),
        (("hybrid@tiny", "hybrid@tiny"), "named twice"),
        (("e6-style@tiny",), "no recipe 'e6-style' .*did you mean 'e5-style'"),
        (("echo@bm25",), "recipe echo needs a network"),
        (("echo@tiny:causal",), "sets attention and pooling itself; write echo@tiny"),
        (("e5-style@all-minilm-l6-v2",), "all-minilm-l6-v2 is an encoder"),
        (("llm2vec@tiny",), r"write llm2vec@tiny\+FOLDER"),
        (("bm25:mean",), "neither attention nor pooling"),
    ],
)
def test_names_that_cannot_be_opened_are_refused_before_loading(names, words):
    with pytest.raises((ConfigError, UnknownNameError), match=words):
        group_names(names)


@pytest.fixture(scope="module")
def embedder():
    from diffembed.embedding.embedder import Embedder

    return Embedder.load("tiny", attention="causal", dtype="float32")


def test_two_poolings_of_one_forward_equal_two_embedders(embedder, beir_folder):
    (group,) = group_names(["tiny:causal:last", "tiny:causal:mean"])
    system = group.open(dtype="float32")
    vectors, reading = system.read_documents(["some text", "another, longer text"])
    for pooling in ("last", "mean"):
        alone = embedder.encode_poolings(["some text", "another, longer text"], [pooling])[0][pooling]
        np.testing.assert_allclose(vectors[f"tiny:causal:{pooling}"], alone, atol=1e-6)
    assert reading.num_tokens > 4
    results = score_task(system, read_folder(beir_folder)[0])
    assert set(results) == {"tiny:causal:last", "tiny:causal:mean"}
    assert len({result.identity for result in results.values()}) == 2


def test_e5_style_pools_the_end_of_text_token_behind_its_prompt(embedder):
    system = group_names(["e5-style@tiny"])[0].open(dtype="float32")
    vectors, _ = system.read_plain(["what?"], "Find it")
    tokenizer = embedder.backbone.tokenizer
    ids = tokenizer("Instruct: Find it\nQuery: ", add_special_tokens=False).input_ids
    ids += [*tokenizer("what?", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    import torch

    from diffembed.backbones.attention import PackedLayout

    bos = tokenizer("a").input_ids[:-1]
    ids = bos + ids if len(bos) and bos[0] == tokenizer.bos_token_id else ids
    layout = PackedLayout((len(ids),), "causal")
    hidden = embedder.backbone.model(
        input_ids=torch.tensor([ids]), position_ids=layout.position_ids(), packed=layout
    ).last_hidden_state[0, -1]
    expected = torch.nn.functional.normalize(hidden, dim=0).detach().numpy()
    np.testing.assert_allclose(vectors["e5-style@tiny"][0], expected, atol=1e-5)
    assert E5_TEMPLATE.appends_eos


def test_echo_reads_twice_and_pools_the_second_copy(embedder):
    system = group_names(["echo@tiny"])[0].open(dtype="float32")
    vectors, reading = system.read_documents(["short text"])
    frame = embedder.tokenize(["short text"], kind="query", instruction="Document: short text\nDocument again: ")[0]
    assert abs(reading.num_tokens - frame.num_tokens) <= 2
    reader = system.reader
    # A causal state of the second copy has seen the end of the first: it changes with the text's last word.
    other, _ = system.read_documents(["short text?"])
    assert not np.allclose(vectors["echo@tiny"], other["echo@tiny"], atol=1e-3)
    long, cut = reader.read(["word " * 40_000], "document")
    assert cut.num_truncated == 1 and cut.num_tokens <= reader.max_tokens and np.isfinite(long["echo@tiny"]).all()
    with pytest.raises(ConfigError, match="needs an embedder with"):
        read_echo(embedder, "echo")


def test_hybrid_int8_and_baselines_open(beir_folder):
    (task,) = read_folder(beir_folder)
    for name, label in (
        ("hybrid@random", "random+bm25"),
        ("int8@random", "random+int8"),
        ("maxp@random", "random+maxp"),
        ("bm25", "bm25"),
    ):
        (group,) = group_names([name])
        system = group.open()
        assert group.labels == system.labels == (label,)
        assert set(score_task(system, task)) == {label}
    assert isinstance(group_names(["hybrid@random"])[0].open(), HybridSystem)
    assert isinstance(group_names(["bm25"])[0].open(), LexicalSystem)


def test_a_document_is_as_near_as_its_nearest_passage():
    sea = "The ship sailed on through fog and rain to the north. " * 100
    corpus = [
        Document(id="long", text=f"{sea}\n\nThe secret word is heliotrope.\n\n{sea}"),
        Document(id="short", text="A secret is a word that nobody is to know."),
        Document(id="blank", title="The secret", text="\n"),
    ]
    task = Task(
        name="hidden", corpus=corpus, queries=[Query(id="q", text="secret word heliotrope")], qrels={"q": {"long": 1}}
    )
    whole, passages = (group_names([name])[0].open(dtype="float32") for name in ("tiny", "maxp@tiny"))
    ranking = passages.rank(task, top_k=3)
    embedder = Embedder.load("tiny", dtype="float32")
    query = embedder.encode_queries(["secret word heliotrope"], task.instruction)
    parts = [[part.full_text for part in cut_document(one, ChunkPolicy())] for one in corpus]
    assert len(parts[0]) > 10 and len(parts[1]) == 1 and not parts[2]
    near = [
        float(embedder.similarity(query, embedder.encode_documents(part or ["The secret"])).max()) for part in parts
    ]
    found = ranking.runs["tiny+maxp"]["q"]
    assert [found[one.id] for one in corpus] == pytest.approx(near, abs=1e-5)
    assert found["long"] > whole.rank(task, top_k=3).runs["tiny"]["q"]["long"]
    assert ranking.documents.num_texts == len(parts[0]) + 2


def test_search_through_an_index_scores_as_exact_search_where_nothing_is_missed(beir_folder):
    pytest.importorskip("lance", reason="needs the extra index")
    (task,) = read_folder(beir_folder)
    exact, indexed = (group_names([name])[0].open(dtype="float32") for name in ("tiny", "index@tiny"))
    want, found = score_task(exact, task), score_task(indexed, task)
    assert found["tiny+index"].per_query == want["tiny"].per_query
    assert indexed._corpus[1].store.dataset.list_indices(), "without an index the path would be exact"


def test_identity_moves_with_weights_and_settings(embedder):
    import torch

    base = identify(embedder, pooling="mean")
    assert base == identify(embedder, pooling="mean")
    assert identify(embedder, pooling="last") != base
    assert identify(embedder, pooling="mean", direction="anticausal") != base
    weights = hash_weights(embedder.backbone.model)
    weight = next(embedder.backbone.model.parameters())
    with torch.no_grad():
        weight[0, 0] += 1
        assert hash_weights(embedder.backbone.model) != weights
        weight[0, 0] -= 1


def test_a_limit_makes_the_embedder_cut_there(embedder):
    short = limited(embedder, 8)
    assert short.max_tokens == 8 and short.backbone is embedder.backbone
    _, report = short.encode(["a text of many more words than eight tokens can hold"])
    assert report.is_truncated.all() and report.num_tokens.max() == 8
    assert limited(embedder, None) is embedder is limited(embedder, embedder.max_tokens + 1)
