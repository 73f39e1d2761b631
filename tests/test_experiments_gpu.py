"""A training of every kind of method on a GPU, as on the CPU."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("scipy", reason="the experiments need the extra `demo`")
pytest.importorskip("tqdm", reason="the experiments need the extra `demo`")

from examples import data, harness, methods

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),
]


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_trains_on_a_gpu(name: str) -> None:
    if name == "LibAUC AP":
        pytest.importorskip("libauc")
    points = data.shells(900, torch.Generator().manual_seed(0))
    parts = data.Parts(points[:300], points[300:600], points[600:]).to("cuda")
    torch.manual_seed(0)
    net = data.four_layers(10, 16).cuda()
    problem = methods.Problem(300, 1, background=True)
    method = methods.METHODS[name]
    trial = harness.Trial((), name, 0, 3e-3, 1e-3, (method.low * method.high) ** 0.5)
    config = harness.Config((name,), steps=20, device="cuda")
    outcome = harness.fit(net, parts, problem, trial, config, batch=128)
    assert 0.2 < outcome.test <= 1
    assert all(parameter.is_cuda for parameter in net.parameters())
