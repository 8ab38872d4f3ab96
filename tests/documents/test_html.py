"""A page becomes its readable text, with headings and code where a reader sees them."""

from pathlib import Path

import pytest

from diffembed.errors import InputError

pytest.importorskip("selectolax", reason="the extra `index` is not installed")

from diffembed.documents.chunking import ChunkPolicy, cut_document
from diffembed.documents.html import html_text
from diffembed.records import Document


def text_of(page: str) -> str:
    return html_text(page.encode(), "page.html")[1]


def test_a_page_by_hand() -> None:
    title, text = html_text(
        b"""<!doctype html><html><head><title>The  tides</title><style>p {}</style></head><body>
        <nav><a href="/">Home</a></nav><main><h1>Tides<a class="headerlink" href="#t">\xc2\xb6</a></h1>
        <p>The <b>moon</b> pulls
           the sea,<br>twice a day.</p><h2>In <code>code</code></h2><pre>if sea:
    # comment
    rise()
</pre><ul><li>Spring</li><li>Neap &amp; <i>dead</i></li></ul>
        <table><tr><th>Port</th><td>3 m</td></tr><tr><td>Bay</td><td>1 m</td></tr></table>
        <script>alert(1)</script><p hidden>unseen</p></main><footer>(c)</footer></body></html>""",
        "page.html",
    )
    assert title == "The tides"
    assert text == (
        "# Tides\n\nThe moon pulls the sea,\ntwice a day.\n\n## In code\n\n"
        "```\nif sea:\n    # comment\n    rise()\n```\n\n- Spring\n- Neap & dead\n\nPort  3 m\nBay  1 m\n"
    )


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("", ""),
        ("no tags at all", "no tags at all\n"),
        ("<p>a<p>b", "a\n\nb\n"),
        ("<b>un<i>bro</i>ken</b> word", "unbroken word\n"),
        ("<article>one</article><article>two</article>", "one\n\ntwo\n"),
        ("<pre>a\n```\nb</pre>", "````\na\n```\nb\n````\n"),
        ("<h2></h2><p>x</p>", "x\n"),
        ("<main></main><p>Drawn elsewhere.</p>", "Drawn elsewhere.\n"),
        ("<article>A teaser.</article><p>" + "All of it. " * 9, "A teaser.\n\n" + " ".join(["All of it."] * 9) + "\n"),
    ],
)
def test_pages_that_need_care(page: str, text: str) -> None:
    assert text_of(page) == text


def test_a_page_nested_deeper_than_the_stack_is_read() -> None:
    assert "deep" in text_of("<div>" * 5_000 + "deep")


def test_a_declared_encoding_is_believed_and_nothing_is_guessed() -> None:
    page = '<meta charset="iso-8859-1"><p>caf\xe9</p>'
    assert html_text(page.encode("latin-1"), "p.html")[1] == "caf\xe9\n"
    with pytest.raises(InputError, match="is not UTF-8 text"):
        html_text(b"<p>caf\xe9</p>", "p.html")
    with pytest.raises(InputError, match="is not ascii text as it declares"):
        html_text(b'<meta charset="ascii"><p>caf\xe9</p>', "p.html")
    with pytest.raises(InputError, match="is not undefined text as it declares"):
        html_text(b'<meta charset="undefined"><p>caf\xe9</p>', "p.html")


def test_comments_in_code_are_no_headings() -> None:
    text = text_of("<h1>Top</h1><p>Words.</p><pre># a comment\nrun()</pre><h2>Next</h2><p>More.</p>")
    chunks = cut_document(Document(id="d", text=text), ChunkPolicy())
    assert [chunk.title for chunk in chunks] == ["Top", "Top > Next"]
    assert "# a comment" in chunks[0].text


def test_a_real_page_gives_its_sections() -> None:
    path = next(Path("/usr/share/doc").glob("python3*-doc/html/library/subprocess.html"), None)
    if path is None:
        pytest.skip("the Python manual is not installed")
    title, text = html_text(path.read_bytes(), path.name)
    assert title.startswith("subprocess")
    assert "\n## Using the subprocess Module\n" in text
    assert "previous |" not in text
    assert "\u00b6" not in text
