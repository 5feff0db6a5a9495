"""Wikipedia as shards of sentences: `python -m flaxae.data.wikipedia OUT`.

sources.py reads articles (Hub, tfds, XML dumps), clean.py makes sentences of them, shards.py writes
them so that a run goes on where it stopped, build.py drives it with `datasets` on all cores, and
beam.py with Apache Beam on a cluster. Both write the same bytes.
"""
