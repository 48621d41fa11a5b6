"""Flags of XLA under which tests compile; nothing is imported, for they are set before jax is."""

FAST_COMPILATION = (
    # without LLVM's optimisations, which change no result by more than rounding, a half less
    "--xla_backend_optimization_level=0"
    # one module of LLVM for each program: in many parts, one for each thread, a third more
    " --xla_cpu_parallel_codegen_split_count=1"
)
