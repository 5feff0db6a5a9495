"""Flags for XLA's TPU compiler that replace defaults which cost more than they save."""

import os

# XLA may cut a product whose factor or result is split over chips into a loop of one product per
# chip, each sent on while the next is computed. Every iteration reads the other factor again:
# T5-base's VAE would access 1.5 times as many bytes on 8 chips and 2.2 times as many on 32
# (docs/tpu.md), to hide messages that take a tenth of the time. The flag is the size in
# MiB above which XLA does so: never reached.
FLAGS = {"--xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def set_flags() -> None:
    """Add FLAGS to LIBTPU_INIT_ARGS, which libtpu reads when it is loaded.

    A flag that the variable already contains stays as it is.
    """
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    more = [f"{name}={value}" for name, value in FLAGS.items() if name not in given]
    os.environ["LIBTPU_INIT_ARGS"] = " ".join([given, *more]).strip()
