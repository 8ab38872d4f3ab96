"""An embeddings API that existing clients already speak, the batcher behind it, and a page to see with.

Read `app.make_app`, then `batcher.Batcher`. Must not know training or evaluation.
"""
