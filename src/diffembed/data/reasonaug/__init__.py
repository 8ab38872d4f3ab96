"""ReasonAug: training data for retrieval that needs reasoning, made with any language model.

Read `pipeline.run` first, then the stages in its order: `concepts`, `definitions`, `rounds`, `question_check`,
`solution_check`, `assembly`, `negatives`, `written`, `leakage`, `publish`. Each turns rows (`rows.py`) into rows.
Answers come through `asking.py` from an endpoint (`client.py`), batch files (`batch.py`) or stored ones (`store.py`,
`replay.py`). Needs the extra `reasonaug`.
"""
