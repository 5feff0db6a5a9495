"""XLA's flags in tests. It imports no jax: they have an effect only before jax is imported."""

import importlib.metadata

# Most of the suite's time is compilation. With these flags a program of a small T5-VAE compiles in
# half of the time that LLVM's -O1 and XLA's newer fusion emitters need; tests run it a few times.
COMPILE_FAST = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
# As users' programs are compiled: for sums that must be exact.
COMPILE_WELL = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}

# jaxlib 0.10 has older emitters; 0.12 does not, and ends a process at an unknown flag.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    COMPILE_FAST.append("--xla_cpu_use_fusion_emitters=false")
    # One part instead of 32, which is for many cores: a fifth less time.
    COMPILE_FAST.append("--xla_cpu_parallel_codegen_split_count=1")
    COMPILE_WELL["xla_cpu_use_fusion_emitters"] = True
