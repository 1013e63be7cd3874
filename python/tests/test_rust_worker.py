"""Workers in Rust for a host in Python, and in Python for a host in Rust."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import slipring

EXAMPLES = Path(__file__).parents[2] / "target/debug/examples"
WORKER, HOST = EXAMPLES / "role_worker", EXAMPLES / "embed_host"
LETTERS = Path(__file__).with_name("letters_worker.py")


@pytest.mark.skipif(not WORKER.exists(), reason="cargo build --example role_worker was not run")
def test_a_worker_in_rust_embeds_texts_of_a_host_in_python() -> None:
    with slipring.Spawner(WORKER, role="all").spawn() as channel:
        vectors = channel.call("embed", ["slip ring", "slip"], timeout=30.0).array()
        assert vectors.shape == (2, 4) and vectors.dtype == np.float32
        with pytest.raises(slipring.HandlerFailed):
            channel.call("embed", b"no texts", timeout=30.0)


@pytest.mark.skipif(not HOST.exists(), reason="cargo build --example embed_host was not run")
def test_a_worker_in_python_embeds_texts_of_a_host_in_rust() -> None:
    def counted(*worker: str | Path) -> list[str]:
        run = subprocess.run([HOST, *worker], capture_output=True, text=True, check=True, timeout=120)
        return [line for line in run.stdout.splitlines() if line.startswith("letters counted: ")]

    # The example's own worker, in Rust, does the same.
    assert counted(sys.executable, LETTERS) == counted() != []
