"""Answers in another language than asked for are noticed; code, formulas and short texts are not judged."""

import pytest

from diffembed.data.reasonaug.language import is_in_language, language_name
from diffembed.errors import UnknownNameError

TEXTS = {
    "en": "A farmer has three fields and wants to share the water between them so that each of them gets an amount "
    "that is proportional to its area. How much water is there for the largest of the fields?",
    "de": "Ein Bauer hat drei Felder und will das Wasser so zwischen ihnen verteilen, dass jedes Feld eine Menge "
    "bekommt, die seiner Fläche entspricht. Wie viel Wasser ist das für das größte der Felder?",
    "es": "Un agricultor tiene tres campos y quiere repartir el agua entre ellos de manera que cada uno reciba una "
    "cantidad que sea proporcional a su superficie. ¿Cuánta agua hay para el más grande de los campos?",
    "fr": "Un paysan a trois champs et il veut partager l'eau entre eux de façon que chacun des champs reçoive une "
    "quantité qui est proportionnelle à sa surface. Combien d'eau y a-t-il pour le plus grand?",
    "ru": "Один крестьянин хочет разделить воду между тремя полями так, чтобы каждое получило свою долю.",
    "zh": "一位农民有三块田地,他想把水按照面积分给每一块田地。请问最大的那一块田地能够得到多少水?"
    "请写出计算过程和最后的答案,并且说明理由,谢谢您。",
    "ko": "한 농부가 밭 세 개를 가지고 있으며 넓이에 비례하여 물을 나누어 주려고 합니다. "
    "가장 넓은 밭은 얼마나 많은 물을 받게 됩니까? 설명하십시오.",
}


@pytest.mark.parametrize("wanted", TEXTS)
@pytest.mark.parametrize("written", TEXTS)
def test_every_pair_of_languages_is_told_apart(wanted: str, written: str) -> None:
    assert is_in_language(TEXTS[written], wanted) is (wanted == written)


def test_code_and_formulas_are_not_judged() -> None:
    lines = "resultado = suma(los_valores)  # la suma de todos los valores que hay en la lista\n" * 9
    assert not is_in_language(lines, "en")
    assert is_in_language(f"Here is the code.\n```python\n{lines}```", "en")
    assert is_in_language(r"\[ F(b) - F(a) \] " + "λμθ" * 20, "en")


def test_short_texts_are_not_judged() -> None:
    assert is_in_language("Ja, das stimmt.", "en")
    assert is_in_language("", "en")


def test_an_unknown_language_lists_the_known_ones() -> None:
    assert language_name("en") == "English"
    with pytest.raises(UnknownNameError, match="no language 'xx'; choose one of ar, da, de"):
        language_name("xx")
