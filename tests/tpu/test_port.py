"""JAX uses JAX_COORDINATOR_PORT, which the launcher sets, on TPU VMs."""

import pytest
from jax._src import clusters
from jax._src.clusters import cloud_tpu_cluster


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("kind", ["vm", "gke"])
def test_jax_uses_the_port(monkeypatch: pytest.MonkeyPatch, kind: str, slices: int):
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "8476")
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    coordinator = "127.0.0.9:8080" if slices > 1 else ""
    if slices > 1:
        monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", coordinator)
        monkeypatch.setenv("MEGASCALE_NUM_SLICES", "2")
        monkeypatch.setenv("MEGASCALE_SLICE_ID", "1")
    if kind == "gke":
        monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "127.0.0.1,127.0.0.2")
        monkeypatch.setenv("TPU_WORKER_ID", "1")
    else:
        monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
        monkeypatch.delenv("TPU_PROCESS_ADDRESSES", raising=False)
        monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    metadata = {"agent-worker-number": "1", "worker-network-endpoints": "127.0.0.1,127.0.0.2"}
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (metadata.get(key, ""), 200))
    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    address, count, index, _ = detect(None, None, None, None, None, 5)
    assert address == ("127.0.0.9:8476" if slices > 1 else "127.0.0.1:8476")
    assert (count, index) == ((4, 3) if slices > 1 else (2, 1))
