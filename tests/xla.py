"""XLA's flags in tests; imports no jax, since they count only before it is imported."""

# Most of the suite's time is compiling. With these a program of a small T5-VAE takes half of the
# processor time that LLVM's -O1 and XLA's newer fusion emitters need; tests run it but a few times.
COMPILE_FAST = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
)
# As users' programs are compiled: for sums that must be exact.
COMPILE_WELL = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
}
