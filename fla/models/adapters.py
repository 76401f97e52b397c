"""Adapter from sign-wise features to a translator's width: VL-Adapter and LLM-Adapter.

Shape letters:
- R = real frames of all clips together
- D = width of a sign-wise feature
- E = width of the translator's embeddings
"""

import torch
from torch import Tensor, nn


class Adapter(nn.Module):
    """MLP with one hidden layer, as wide as the output, with ReLU.

    It is the VL-Adapter before Light-T in stage 1 (FLa-LLM, section 3.1), and in stage 2 the
    LLM-Adapter, in the place of mBART's word embedding (section 3.2). The paper gives neither the
    hidden width nor the activation.

    Args:
        in_width: D.
        out_width: E.
    """

    def __init__(self, *, in_width: int, out_width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_width, out_width)
        self.out = nn.Linear(out_width, out_width)

    def forward(self, features: Tensor) -> Tensor:
        """Turn `(R, D)` of any float type into `(R, E)` of the adapter's own type."""
        # A frozen encoder hands over bfloat16, whatever the translator is trained in.
        embeddings: Tensor = self.out(
            torch.relu(self.hidden(features.to(self.hidden.weight.dtype)))
        )
        return embeddings
