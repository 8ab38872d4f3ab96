from diffembed.study.run import run_study


def test_whole(make_plan, store):
    plan = make_plan()
    said = []
    states = run_study(plan, store, notify=said.append)
    print("\n".join(said))
    assert {s.name for s in states.values()} == {"done"}
