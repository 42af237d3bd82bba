"""LoRA adapters (arXiv 2106.09685), by `peft`: put into a network, and merged into its weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from segrefine.errors import MissingDependencyError, SettingsError

_TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""The layers of CLIP's text encoder that get adapters."""


def add_adapters(network: nn.Module, rank: int, targets: Sequence[str] | None = None) -> None:
    """Put adapters of a rank into a network, in place. Only they are trained then.

    Args:
        network: a denoiser or a text encoder, without gradients.
        rank: of the adapters.
        targets: names of the layers that get one; None for those of a text encoder.

    Raises:
        MissingDependencyError: peft is not installed.
        SettingsError: no layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingDependencyError("LoRA needs peft, which is not installed",
                                     hint='pip install "segrefine[train]"') from error  # fmt: skip
    names = list(targets or _TEXT_TARGETS)
    if not any(name.endswith(target) for name, _ in network.named_modules() for target in names):
        raise SettingsError(f"no layer of the model is named {' or '.join(names)}", subject="lora_targets",
                            hint="such as --lora-targets to_q,to_k,to_v,to_out.0")  # fmt: skip
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), network)


def merged(network: nn.Module) -> nn.Module:
    """The network with its adapters merged into its weights, in place; one without adapters as it is."""
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError:
        return network
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, layer.get_base_layer())
    if hasattr(network, "peft_config"):
        del network.peft_config
    return network
