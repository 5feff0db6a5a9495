"""Wikipedia as shards of sentences: `python -m flaxae.data.wikipedia OUT`.

sources.py reads articles (Hub, tfds, XML dumps), clean.py extracts sentences, and shards.py writes
them so that an interrupted run continues. build.py runs it with `datasets` on all cores, beam.py
with Apache Beam on a cluster; both write the same bytes.
"""
