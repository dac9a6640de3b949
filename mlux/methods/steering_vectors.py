"""Steering vectors: what a model holds after positive prompts against what after negative ones.

Read at each prompt's last token, after one block or several. By difference of means: Rimsky et al.
(2024), "Steering Llama 2 via contrastive activation addition" (CAA), and, of a single pair, Turner
et al. (2023), "Activation addition"; by the principal component of paired differences: Zou et al.
(2023), "Representation engineering"; by the normal of a linear probe.
"""

# First, so that the optimised BLAS is there before MLX.
from mlux.engine import HookedModel

# isort: split
from collections.abc import Iterable

import mlx.core as mx

from mlux.errors import UnknownNameError
from mlux.methods.directions import LEARN, Method
from mlux.methods.residuals import Prompts, residuals_from_end


def compute_steering_vector(
    hooked: HookedModel,
    positive: Prompts,
    negative: Prompts,
    layer: int,
    method: Method = "mean",
) -> mx.array:
    """A direction in the residual stream after a block, from negative towards positive.

    Args:
        hooked: The model.
        positive: A prompt, or several.
        negative: The same of the opposite.
        layer: The block.
        method: `mean` is the difference of means, in its own length. `pca` is the principal
            component of the differences of pairs (prompt i of one, prompt i of the other) and
            `probe` the normal of a logistic regression; both have length 1.

    Returns:
        [d_model], in the dtype of the activations.

    Raises:
        UnknownNameError: If there is no such method.
        ParameterError: For `pca`, if the numbers of prompts differ.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> compute_steering_vector(model, "the food was amazing", "the food was awful", 3).shape
        (128,)
    """
    return compute_steering_vectors(hooked, positive, negative, [layer], method)[layer]


def compute_steering_vectors(
    hooked: HookedModel,
    positive: Prompts,
    negative: Prompts,
    layers: Iterable[int] | None = None,
    method: Method = "mean",
) -> dict[int, mx.array]:
    """`compute_steering_vector` after many blocks, from one pass over the prompts.

    Args:
        hooked: The model.
        positive: A prompt, or several.
        negative: The same of the opposite.
        layers: The blocks; by default all.
        method: As there.

    Returns:
        Layer → [d_model], in the dtype of the activations.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> positive, negative = ["it was lovely", "it was great"], ["it was awful", "it was bland"]
        >>> sorted(compute_steering_vectors(model, positive, negative, [2, 3], "pca"))
        [2, 3]
    """
    if method not in LEARN:
        raise UnknownNameError("steering method", method, LEARN)
    chosen = range(len(hooked.layers)) if layers is None else list(layers)
    at_positive = residuals_from_end(hooked, positive, chosen)
    at_negative = residuals_from_end(hooked, negative, chosen)
    vectors = {
        layer: LEARN[method](at_positive[layer][:, 0], at_negative[layer][:, 0]) for layer in chosen
    }
    vectors = {layer: vector.astype(hooked.resid_dtype) for layer, vector in vectors.items()}
    mx.eval(list(vectors.values()))
    return vectors
