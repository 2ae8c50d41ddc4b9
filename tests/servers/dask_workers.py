"""A cluster of dask on this machine, whose workers are forks of a process that has imported blackvip."""

from contextlib import contextmanager

import pytest
from programs import preload_forks


@contextmanager
def workers_are_forks():
    """Workers of a local cluster are forks of one process that has imported blackvip, which takes seconds."""
    from dask import config

    with config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        preload_forks()
        yield


@contextmanager
def two_dask_workers():
    """A client of the cluster, both of whose workers are there."""
    distributed = pytest.importorskip("distributed")
    with workers_are_forks():
        cluster = distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        )
        with cluster, distributed.Client(cluster) as client:
            client.wait_for_workers(2, timeout=120)
            yield client
