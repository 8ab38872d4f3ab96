"""Tables on terminals of every width: nothing is cut, and names are whole where there is room."""

import pytest

from diffembed.cli.printing import print_table

NAME, ABOUT = "evaluate-gemma-3-270m-diffusion-instruction", "train-gemma-3-270m-diffusion will change"


@pytest.mark.parametrize(("width", "is_whole"), [(40, False), (60, False), (70, True), (80, True), (120, True)])
def test_names_are_whole_where_there_is_room_and_nothing_is_cut(width, is_whole, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(["node", "minutes", "about"], [[NAME, "10.4", ABOUT], ["x", "", ""]], names=["node"])
    lines = capsys.readouterr().out.splitlines()
    assert any(NAME in line for line in lines) == is_whole and max(map(len, lines)) <= width
    # A wrapped cell stands in pieces below each other; all letters of the row are there.
    assert sorted("".join(lines[2:]).replace(" ", "")) == sorted(f"{NAME}10.4{ABOUT}x".replace(" ", ""))
