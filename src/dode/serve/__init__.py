"""A local page on which one moves budget, solver, guidance and seed, and sees base, distilled and reference from the same noise.

`bench` computes and knows nothing of a page; `page` writes what it found as HTML; `app` is the page, made by gradio (`dode[serve]`).
"""
