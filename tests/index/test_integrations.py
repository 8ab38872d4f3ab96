"""The page's LangChain adapter runs as it is printed; the others need packages that are not light."""

import re
from pathlib import Path

import pytest

from diffembed.records import Document, Hit

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"


class Found:
    """Stands for an `Index`."""

    def search(self, question, *, k, mode):
        assert (question, k, mode) == ("tides?", 5, "hybrid")
        found = Document(id="a#0", text="The moon pulls.", source="a.md", start=7, metadata={"lang": "en"})
        return [Hit(document=found, score=0.5, rank=1)]


def test_langchain_adapter_of_the_page(monkeypatch):
    pytest.importorskip("langchain_core", reason="needs langchain-core")
    pytest.importorskip("lance", reason="needs the extra index")
    code = re.search(r"## LangChain\n\n```python\n(.*?)\nretriever = ", PAGE.read_text(), re.S).group(1)
    names = {"__name__": "page"}
    exec(code, names)
    retriever = names["IndexRetriever"](index=Found())
    (document,) = retriever.invoke("tides?")
    assert document.page_content == "The moon pulls." and document.id == "a#0"
    assert document.metadata == {"lang": "en", "source": "a.md", "score": 0.5}
    assert retriever.batch(["tides?", "tides?"])[1][0].id == "a#0"
