import pytest
import torch
from torch import nn
from transformers.integrations import sdpa_attention
from transformers.pytorch_utils import Conv1D

from sidtool.recommendation.search import kernels as linear


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("no oneDNN")
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(linear, "SMALL", 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(24, 40, bias=False), Conv1D(16, 40), nn.Linear(16, 7))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.layers(hidden)


@pytest.mark.usefixtures("onednn")
def test_products_are_equal_for_every_kind_of_layer() -> None:
    torch.manual_seed(0)
    net, hidden = Net(), torch.randn(2, 5, 24)
    expected = net(hidden).detach()
    with linear.fast_linear(net), torch.no_grad(), torch.profiler.profile() as profile:
        result = net(hidden)
    events = profile.key_averages()
    assert [event.count for event in events if event.key == "mkldnn::_linear_pointwise"] == [3]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert all("forward" not in layer.__dict__ for layer in net.modules())


@pytest.mark.usefixtures("onednn")
def test_a_layer_with_a_custom_forward_is_unchanged() -> None:
    net = Net()
    net.layers[0].forward = lambda hidden: torch.zeros(*hidden.shape[:-1], 40)
    with linear.fast_linear(net), torch.no_grad():
        assert not net.layers[0](torch.ones(1, 24)).any()
    assert "forward" in net.layers[0].__dict__


@pytest.mark.usefixtures("onednn")
def test_gradients_autocast_other_precisions_and_empty_inputs_use_torch() -> None:
    weight, hidden = torch.randn(4, 8), torch.randn(3, 8)
    with torch.profiler.profile() as profile:
        linear.product(hidden, weight, None)
        with torch.no_grad():
            linear.product(hidden.bfloat16(), weight.bfloat16(), None)
            linear.product(hidden[:0], weight, None)
            with torch.autocast("cpu", torch.bfloat16):
                assert linear.product(hidden, weight, None).dtype is torch.bfloat16
    assert all(event.key != "mkldnn::_linear_pointwise" for event in profile.key_averages())


def test_masked_attention_on_a_cpu_reads_the_keys_of_a_group_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = nn.Module()
    module.num_key_value_groups = 2
    query, key = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 5, 8)
    mask = torch.zeros(1, 1, 3, 5).masked_fill_(torch.ones(3, 5).triu(3) > 0, -1e9)
    attend = nn.functional.scaled_dot_product_attention
    heads = []
    monkeypatch.setattr(
        nn.functional,
        "scaled_dot_product_attention",
        lambda *inputs, **named: heads.append(inputs[1].shape[1]) or attend(*inputs, **named),
    )
    repeated, _ = sdpa_attention.sdpa_attention_forward(module, query, key, key, mask)
    with linear.grouped_keys():
        grouped, _ = sdpa_attention.sdpa_attention_forward(module, query, key, key, mask)
    sdpa_attention.sdpa_attention_forward(module, query, key, key, mask)
    assert heads == [4, 2, 4]
    torch.testing.assert_close(grouped, repeated)


def test_intel_and_unknown_processors_keep_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    result = []
    for text in ("vendor_id : GenuineIntel", "vendor_id : AuthenticAMD"):
        monkeypatch.setattr(linear.Path, "read_text", lambda *_, text=text, **__: text)
        monkeypatch.setattr(linear.Path, "exists", lambda *_: True)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
        result.append(linear.onednn_is_faster.__wrapped__())
    is_available = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    assert result == [False, is_available]
