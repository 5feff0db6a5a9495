"""How XLA compiles for TPUs, where its own choice costs more than it saves."""

import os

# A product whose factor or result is split over chips XLA may cut into a loop of as many products
# as there are chips, each sent on while the next is made. Every turn reads the whole other factor
# again: T5-base's VAE would access 1.5 times as many bytes on 8 chips and 2.2 times as many on 32
# (tpu_compile/README.md), to hide messages that take a tenth of the time. From so many MiB on it
# may: never.
FLAGS = {"--xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def set_flags() -> None:
    """Adds FLAGS to LIBTPU_INIT_ARGS, which libtpu reads when it is loaded.

    A flag that the variable names already stays as it is.
    """
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    more = [f"{name}={value}" for name, value in FLAGS.items() if name not in given]
    os.environ["LIBTPU_INIT_ARGS"] = " ".join([given, *more]).strip()
