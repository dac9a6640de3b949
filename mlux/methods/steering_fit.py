"""What steering learns before it steers: directions, lengths and strengths, for each fold.

The effect that a strength is calibrated to is a probability at the prompt's end: of what follows
the prompts of the label that is steered towards, against what follows those of the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.errors import ParameterError
from mlux.methods.contrast import Contrast, contrast_logit_diff
from mlux.methods.directions import LEARN, Method, classes_differ, random_direction, unit
from mlux.methods.residuals import residuals_from_end
from mlux.methods.steering_strength import Calibration, SteeredLogits, least_strength
from mlux.steps import UNKEPT, Arrays, Steps

Layers = tuple[int, ...]
"""One block, or several that are steered at once."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """What one fold is steered by.

    Attributes:
        units: Layer → unit direction [d_model].
        norms: Layer → mean residual norm at the prompts' ends.
    """

    units: Mapping[int, mx.array]
    norms: Mapping[int, float]

    def added(self, layers: Layers, strength: float) -> dict[int, mx.array]:
        """What a strength, in mean residual norms, adds after each block: [d_model].

        Raises:
            ParameterError: If there is no direction after one of them.
        """
        for layer in layers:
            if layer not in self.units:
                raise ParameterError(
                    f"After block {layer} the prompts of the two labels do not differ at their "
                    "ends, so there is nothing to steer by. Take a later block."
                )
        return {layer: strength * self.norms[layer] * self.units[layer] for layer in layers}


def learn_directions(
    model: HookedModel, contrast: Contrast, layers: Sequence[int], method: Method
) -> dict[int, Direction]:
    """For each fold, directions and norms learned from the others, after each block.

    A block after which the classes do not differ has none.

    Args:
        model: The model.
        contrast: The labelled prompts.
        layers: The blocks.
        method: `mean`, `pca` (the i-th prompt of one class against the i-th of the other) or
            `probe`; see `mlux.methods.directions`.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> texts = ["it was lovely", "it was awful", "it was great", "it was bland"]
        >>> contrast = Contrast(
        ...     rows=[model.tokenize(text) for text in texts],
        ...     signs=[1, -1, 1, -1],
        ...     folds=[0, 0, 1, 1],
        ...     positive=[],
        ...     negative=[],
        ... )
        >>> sorted(learn_directions(model, contrast, [3], "mean"))
        [0, 1]
    """
    found = residuals_from_end(model, contrast.rows, layers)
    directions = {}
    for fold in sorted(set(contrast.folds)):
        taught = contrast.outside(fold)
        classes = [[n for n in taught if contrast.signs[n] == sign] for sign in (1, -1)]
        if method == "pca":
            paired = min(map(len, classes))
            classes = [numbers_of[:paired] for numbers_of in classes]
        if not all(classes):
            raise ParameterError("A fold has no prompts of one of the labels; take fewer folds.")
        positive, negative = map(mx.array, classes)
        at_end = {layer: held[:, 0] for layer, held in found.items()}
        at_end = {
            layer: held
            for layer, held in at_end.items()
            if classes_differ(held[positive], held[negative])
        }
        directions[fold] = Direction(
            units={
                layer: unit(LEARN[method](held[positive], held[negative]))
                for layer, held in at_end.items()
            },
            norms={
                layer: float(mx.mean(mx.linalg.norm(held[mx.array(taught)], axis=-1)))
                for layer, held in at_end.items()
            },
        )
    return directions


def calibrate(
    model: HookedModel,
    contrast: Contrast,
    fold: int,
    direction: Direction,
    layers: Layers,
    target: float,
    steps: Steps = UNKEPT,
) -> Calibration:
    """The strength at which the prompts of the other folds change sides, in mean residual norms.

    Positive prompts are steered by minus the direction, negative ones by plus. The effect is the
    mean probability of the other side's tokens among both sides'.

    Args:
        model: The model.
        contrast: The labelled prompts.
        fold: The fold that is not looked at.
        direction: What was learned for it.
        layers: The blocks that are steered at once.
        target: The effect to reach, from 0.5 to 1.
        steps: What keeps the strength that is found.

    Raises:
        ParameterError: If the contrast does not say what follows its prompts.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> texts = ["i happily told everyone about the", "i sadly told everyone about the"]
        >>> positive, negative = model.tokenize("superb awful", add_bos=False)
        >>> contrast = Contrast(
        ...     rows=[model.tokenize(text) for text in texts] * 2,
        ...     signs=[1, -1] * 2,
        ...     folds=[0, 0, 1, 1],
        ...     positive=[positive],
        ...     negative=[negative],
        ... )
        >>> direction = learn_directions(model, contrast, [4], "mean")[0]
        >>> calibrate(model, contrast, 0, direction, (4,), target=0.9).reached
        True
    """
    if not contrast.positive or not contrast.negative:
        raise ParameterError(
            "Nothing tells what follows the prompts of the two labels, so there is no effect to "
            "calibrate to. Give them a subject or an answer, or calibrate=none."
        )
    places = "+".join(map(str, layers))

    def learn() -> Arrays:
        found = _least(model, contrast, fold, direction, layers, target)
        return {name: [value] for name, value in asdict(found).items()}

    def said(found: Arrays) -> str:
        return (
            f"fold {fold}, block {places}: strength {found['strength'][0]:.3g} has an effect of "
            f"{found['effect'][0]:.3g}"
        )

    found = steps.once(f"calibration.{fold}.{places}", learn, said)
    return Calibration(
        strength=float(found["strength"][0]),
        effect=float(found["effect"][0]),
        reached=bool(found["reached"][0]),
    )


def _least(
    model: HookedModel,
    contrast: Contrast,
    fold: int,
    direction: Direction,
    layers: Layers,
    target: float,
) -> Calibration:
    taught = contrast.outside(fold)
    signs = mx.array([contrast.signs[number] for number in taught], dtype=mx.float32)
    steered = SteeredLogits(model, [contrast.rows[number] for number in taught], min(layers))

    def changed(strength: float) -> float:
        added = {
            layer: -signs[:, None] * vector
            for layer, vector in direction.added(layers, strength).items()
        }  # [prompts, d_model]
        towards_positive = contrast_logit_diff(
            steered.under(added), contrast.positive, contrast.negative
        )
        effect: float = numbers(mx.mean(mx.sigmoid(-signs * towards_positive)))
        return effect

    return least_strength(changed, target)


def random_directions(like: Mapping[int, Direction], seed: int) -> dict[int, Direction]:
    """Controls for each fold: as long after every block, in a direction drawn for it.

    Example:
        >>> like = {0: Direction(units={3: mx.ones(4)}, norms={3: 2.0})}
        >>> random_directions(like, seed=0)[0].norms
        {3: 2.0}
    """
    return {
        fold: Direction(
            units={
                layer: random_direction(vector.size, (seed, fold, layer))
                for layer, vector in direction.units.items()
            },
            norms=direction.norms,
        )
        for fold, direction in like.items()
    }
