"""Published diffusion checkpoints become native ones: read `convert.py`, then `layout.py` and one family.

layout.py     what a layout is          catalogue.py  which ones there are, how a folder is recognised
dense.py llada.py diffugpt.py moe.py    the layouts themselves, as data
source.py     published bytes           plan.py       which bytes become which native tensor
writer.py     native shards             tokenizer.py  the tokenizer without remote code
pipeline.py   pooling and quantiser     hub.py        download, and conversion on first use
sidecar.py    diffembed.json            parity.py     comparison with outputs of the original code
"""
