"""GPUs that are not there, as XLA's CUDA compiler wants them described."""

from typing import NamedTuple


class Card(NamedTuple):
    """What a program is compiled by: major compute capability and whether it has instructions of its own kind alone (9.0a),
    multiprocessors, arithmetic units and bytes of shared memory of each, bytes of it that a block may take, bytes of memory and how
    many a second, bytes of cache, GHz."""

    name: str
    capability: int
    own: bool
    cores: int
    units: int
    shared: int
    most_shared: int
    memory: int
    bandwidth: int
    cache: int
    clock: float


# Source of the figures: XLA, xla/backends/gpu/target_config/specs (read off such cards)
CARDS = {
    "a100": Card("NVIDIA A100-SXM4-80GB", 8, False, 108, 64, 167936, 166912, 85100068864, 2039040000000, 41943040, 1.41),
    "h100": Card("NVIDIA H100 80GB HBM3", 9, True, 132, 128, 233472, 232448, 84942979072, 3352320000000, 52428800, 1.98),
    "h200": Card("NVIDIA H200 141GB HBM3e", 9, True, 132, 128, 233472, 232448, 151397597184, 4800000000000, 52428800, 1.98),
}


def described(card: Card) -> str:
    """A GpuTargetConfigProto in text. What no card here has otherwise stands as a number."""
    feature = "ACCELERATED_FEATURES" if card.own else "NONE"
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {card.shared} shared_memory_per_block_optin: {card.most_shared}
  core_count: {card.cores} fpus_per_core: {card.units} clock_rate_ghz: {card.clock}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {card.bandwidth} l2_cache_size: {card.cache} device_memory_size: {card.memory}
  cuda_compute_capability {{ major: {card.capability} feature_extension: {feature} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 13 }}
device_description_str: "{card.name}"
"""
