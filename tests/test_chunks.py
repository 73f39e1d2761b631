import weakref

import pytest
import torch
from torch import Tensor, nn

import fastap
from examples.chunks import backward_in_chunks, scores_in_chunks

N, FEATURES, CLASSES = 23, 5, 3


def inputs_and_targets(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(N, FEATURES, dtype=dtype, generator=generator)
    return inputs, torch.rand(N, CLASSES, generator=generator) < 0.3


def make_net(*hidden: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), *hidden, nn.Linear(8, CLASSES)).to(dtype)


def gradients(net: nn.Module) -> list[Tensor]:
    result = [parameter.grad for parameter in net.parameters()]
    net.zero_grad()
    return result


def direct_ap(targets: Tensor):
    return lambda scores: fastap.direct_ap_loss(scores, targets, dim=0, reduction="sum")


# 23 rows: one at a time, an uneven last chunk, all but one, exactly all, more than there are
@pytest.mark.parametrize("chunk", [1, 5, 22, 23, 100])
def test_value_and_gradients_are_those_of_one_batch(chunk: int) -> None:
    net, (inputs, targets) = make_net(), inputs_and_targets()
    expected = direct_ap(targets)(net(inputs))
    expected.backward()
    expected_gradients = gradients(net)
    value = backward_in_chunks(net, inputs, direct_ap(targets), chunk)
    assert not value.requires_grad
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    # A sum over rows, taken in another order: rounding alone may differ.
    torch.testing.assert_close(gradients(net), expected_gradients, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("chunk", [5, 23])
def test_dropout_draws_the_same_numbers_both_times(chunk: int) -> None:
    """The reference keeps the graphs of all chunks and so runs each once: a second, other mask would differ from it."""
    net, (inputs, targets) = make_net(nn.Dropout(0.5)), inputs_and_targets()
    torch.manual_seed(7)
    expected = direct_ap(targets)(torch.cat([net(rows) for rows in inputs.split(chunk)]))
    expected.backward()
    expected_gradients, next_number = gradients(net), torch.rand(())

    torch.manual_seed(7)
    value = backward_in_chunks(net, inputs, direct_ap(targets), chunk)
    assert torch.equal(torch.rand(()), next_number)  # the second run took nothing from the generator
    assert torch.equal(value, expected.detach())
    torch.testing.assert_close(gradients(net), expected_gradients, rtol=1e-10, atol=1e-15)

    torch.manual_seed(8)
    assert not torch.equal(backward_in_chunks(net, inputs, direct_ap(targets), chunk), value)  # dropout was at work


def test_only_one_chunk_of_activations_is_alive() -> None:
    most = 0
    alive = weakref.WeakSet()

    class Watched(nn.Module):
        def forward(self, hidden: Tensor) -> Tensor:
            nonlocal most
            activation = hidden.square()  # saved for the backward pass of the next line
            alive.add(activation)
            most = max(most, len(alive))
            return activation.sin()

    net, (inputs, targets) = make_net(Watched()), inputs_and_targets()
    direct_ap(targets)(torch.cat([net(rows) for rows in inputs.split(5)])).backward()
    assert most == 5  # the watch works: all of the chunks' activations at once
    most = 0
    backward_in_chunks(net, inputs, direct_ap(targets), 5)
    assert most == 1


def test_autocast_in_both_runs() -> None:
    net, (inputs, targets) = make_net(dtype=torch.float32), inputs_and_targets(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        direct_ap(targets)(torch.cat([net(rows) for rows in inputs.split(5)])).backward()
        expected = gradients(net)
        backward_in_chunks(net, inputs, direct_ap(targets), 5)
    torch.testing.assert_close(gradients(net), expected)


def test_a_loss_with_parameters_and_inputs_with_a_gradient() -> None:
    net, (inputs, targets) = make_net(), inputs_and_targets()
    inputs.requires_grad_()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)

    def loss(scores: Tensor) -> Tensor:
        return direct_ap(targets)(scale * scores)

    loss(net(inputs)).backward()
    expected = scale.grad, inputs.grad
    scale.grad = inputs.grad = None
    backward_in_chunks(net, inputs, loss, 5)
    torch.testing.assert_close((scale.grad, inputs.grad), expected, rtol=1e-10, atol=1e-15)


def test_batch_normalisation_over_the_batch_is_refused() -> None:
    net, (inputs, targets) = make_net(nn.BatchNorm1d(8)), inputs_and_targets()
    with pytest.raises(ValueError, match=r"layer '2' is BatchNorm1d over the batch"):
        backward_in_chunks(net, inputs, direct_ap(targets), 5)
    net.eval()
    backward_in_chunks(net, inputs, direct_ap(targets), 5)
    net = make_net(nn.BatchNorm1d(8, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match="freeze it"):
        scores_in_chunks(net, inputs, 5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_dropout_on_a_gpu() -> None:
    net, (inputs, targets) = make_net(nn.Dropout(0.5)).cuda(), (tensor.cuda() for tensor in inputs_and_targets())
    torch.manual_seed(7)
    direct_ap(targets)(torch.cat([net(rows) for rows in inputs.split(5)])).backward()
    expected, next_number = gradients(net), torch.rand((), device="cuda")
    torch.manual_seed(7)
    backward_in_chunks(net, inputs, direct_ap(targets), 5)
    assert torch.equal(torch.rand((), device="cuda"), next_number)
    torch.testing.assert_close(gradients(net), expected, rtol=1e-10, atol=1e-15)
