"""The logit lens of one text, layer by layer, for looking around in a notebook.

`mlux.methods.lens` does the same for batches and experiments.
"""

# First, so that the optimised BLAS is there before MLX.
from mlux.engine import ActivationCache, HookedModel, sites

# isort: split
from collections import OrderedDict
from typing import Any

import mlx.core as mx

from mlux.engine.arrays import integers, numbers
from mlux.engine.batching import encode_text
from mlux.engine.sums import log_sum_exp
from mlux.errors import ParameterError, UnknownNameError

PROBES = {"resid": sites.resid_post, "attn_out": sites.attn_out, "mlp_out": sites.mlp_out}
"""What is read after each block: the residual stream, or what one part adds to it."""
KEPT_TEXTS = 8


class LogitLens:
    """What a model would say if it stopped after each block.

    The first question about a text costs one forward pass; every later one about the same text,
    whatever its position and layer, costs the unembedding of what it asks for.

    Example:
        >>> lens = LogitLens(HookedModel.from_pretrained("demo"))
        >>> layers = lens.get_layer_predictions("the capital of france is", token_idx=-1, top_k=2)
        >>> [layer["layer"] for layer in layers]
        [0, 1, 2, 3, 4, 5]
        >>> sorted(layers[-1]["predictions"][0])
        ['logit', 'probability', 'token', 'token_id']

    Attributes:
        hooked: The model.
        tokenizer: Its tokenizer.
        n_layers: How many blocks it has.
    """

    def __init__(self, hooked: HookedModel) -> None:
        self.hooked = hooked
        self.tokenizer = hooked.tokenizer
        self.n_layers: int = hooked.config["n_layers"]
        self._passes: OrderedDict[tuple[str, str], ActivationCache] = OrderedDict()

    def get_layer_predictions(
        self, text: str, token_idx: int, probe_type: str = "resid", top_k: int = 5
    ) -> list[dict[str, Any]]:
        """The top tokens after each block at one position.

        Args:
            text: The text.
            token_idx: The position; -1 is the last token.
            probe_type: resid, attn_out or mlp_out.
            top_k: How many tokens.

        Returns:
            One row a layer: `layer`, `probe_type` and `predictions`, each with `token`,
            `token_id`, `logit` and `probability`, most probable first.

        Raises:
            ParameterError: If the text has no such position.
        """
        activations = self._activations(text, probe_type)  # [n_layers, seq, d_model]
        seq = activations.shape[1]
        if not -seq <= token_idx < seq:
            raise ParameterError(f"The text has {seq} tokens; there is no token {token_idx}.")
        rows = self._read(activations[:, token_idx % seq][:, None], top_k)
        return [
            {"layer": layer, "probe_type": probe_type, "predictions": row[0]}
            for layer, row in enumerate(rows)
        ]

    def get_all_predictions(
        self, text: str, probe_type: str = "resid", top_k: int = 3
    ) -> dict[str, Any]:
        """The top tokens after each block at every position.

        Returns:
            `tokens` as in `tokenize_with_info`, `grid[position][layer]`, each a list of
            predictions, and `n_layers`.
        """
        activations = self._activations(text, probe_type)
        # A layer at a time: the logits of all layers and positions may not fit into memory.
        rows = [
            self._read(activations[layer : layer + 1], top_k)[0] for layer in range(self.n_layers)
        ]
        grid = [list(position) for position in zip(*rows, strict=True)]
        return {"tokens": self.tokenize_with_info(text), "grid": grid, "n_layers": self.n_layers}

    def tokenize_with_info(self, text: str) -> list[dict[str, Any]]:
        """The tokens that the text is run as: `idx`, `token_id`, `text`, `display`."""
        tokens = []
        for index, token_id in enumerate(encode_text(self.tokenizer, text)):
            piece = self.tokenizer.decode([token_id])
            display = repr(piece)[1:-1]
            tokens.append({"idx": index, "token_id": token_id, "text": piece, "display": display})
        return tokens

    def _activations(self, text: str, probe_type: str) -> mx.array:
        if probe_type not in PROBES:
            raise UnknownNameError("probe type", probe_type, PROBES)
        key = (text, probe_type)
        paths = [PROBES[probe_type](layer) for layer in range(self.n_layers)]
        if key not in self._passes:
            _, self._passes[key] = self.hooked.run_with_cache(text, hooks=paths)
        self._passes.move_to_end(key)
        if len(self._passes) > KEPT_TEXTS:
            self._passes.popitem(last=False)
        return mx.stack([self._passes[key][path][0] for path in paths])

    def _read(self, activations: mx.array, top_k: int) -> list[list[list[dict[str, Any]]]]:
        """[rows, seq, d_model] → predictions by row and position."""
        logits = self.hooked.unembed(activations).astype(mx.float32)
        ids = mx.argsort(-logits, axis=-1)[..., :top_k]
        top = mx.take_along_axis(logits, ids, axis=-1)
        probabilities = mx.exp(top - log_sum_exp(logits)[..., None])
        table = zip(integers(ids), numbers(top), numbers(probabilities), strict=True)
        return [
            [self._predictions(*position) for position in zip(*row, strict=True)] for row in table
        ]

    def _predictions(
        self, ids: list[int], logits: list[float], probabilities: list[float]
    ) -> list[dict[str, Any]]:
        return [
            {
                "token": self.tokenizer.decode([token_id]),
                "token_id": token_id,
                "logit": logit,
                "probability": probability,
            }
            for token_id, logit, probability in zip(ids, logits, probabilities, strict=True)
        ]
