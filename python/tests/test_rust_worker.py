"""A worker that is written in Rust, for a host in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slipring

WORKER = Path(__file__).parents[2] / "target/debug/examples/role_worker"


@pytest.mark.skipif(not WORKER.exists(), reason="cargo build --example role_worker was not run")
def test_a_worker_in_rust_embeds_texts_of_a_host_in_python() -> None:
    with slipring.Spawner(WORKER, role="all").spawn() as channel:
        vectors = channel.call("embed", ["slip ring", "slip"], timeout=30.0).array()
        assert vectors.shape == (2, 4) and vectors.dtype == np.float32
        with pytest.raises(slipring.HandlerFailed):
            channel.call("embed", b"no texts", timeout=30.0)
