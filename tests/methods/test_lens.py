"""The logit lens against the model itself and against a slow, obvious twin."""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import pytest
from scipy.special import logsumexp

from mlux import prompts
from mlux.engine import HookedModel, sites
from mlux.engine.arrays import integers, to_numpy
from mlux.engine.trials import EncodedPrompt, PromptBatch, Trial, encode
from mlux.errors import ModelError
from mlux.methods.lens import LensReadout, Stream, logit_lens
from mlux.methods.sweeps import layers_with, path_of
from tests.engine.architectures import build


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel.from_pretrained("demo")


def batch_of(model: HookedModel, name: str, count: int) -> PromptBatch:
    chosen = prompts.load(name).prompts[:count]
    trials = [Trial(number=i, encoded=encode(model, prompt)) for i, prompt in enumerate(chosen)]
    return PromptBatch(trials, {})


def read(model: HookedModel, batch: PromptBatch, top_k: int = 5) -> list[LensReadout]:
    return list(
        logit_lens(
            model,
            batch.clean,
            answers=[trial.encoded.answer or 0 for trial in batch],
            positions=batch.positions("last"),
            top_k=top_k,
        )
    )


@pytest.mark.parametrize("name", prompts.shipped())
def test_the_last_layer_is_the_models_own_prediction_bit_for_bit(
    model: HookedModel, name: str
) -> None:
    for tokens, answers in by_length(model, name):
        logits, cache = model.run_with_cache(tokens, hooks=["model.layers.5"])
        assert mx.array_equal(model.unembed(cache["model.layers.5"]), logits)
        batch = model.to_batch(tokens)
        *_, last = logit_lens(model, batch, answers=answers, positions=batch.last[:, None], top_k=1)
        final = logits[:, -1]
        assert mx.array_equal(last.top_ids[:, 0, 0], mx.argmax(final, axis=-1))
        answer_logits = final[mx.arange(len(answers)), mx.array(answers)]
        whole = mx.array(logsumexp(to_numpy(final), axis=-1).astype(np.float32))
        expected = mx.exp(answer_logits - whole)
        assert mx.allclose(last.answer_probability[:, 0], expected, rtol=1e-5)


def by_length(model: HookedModel, name: str) -> Iterator[tuple[mx.array, list[int]]]:
    """Every prompt of a set, those of one length together, with their answers (or any token)."""
    groups: dict[int, list[EncodedPrompt]] = {}
    for prompt in prompts.load(name).prompts:
        encoded = encode(model, prompt)
        groups.setdefault(len(encoded.ids), []).append(encoded)
    for group in groups.values():
        yield mx.array([e.ids for e in group]), [e.answer or 7 for e in group]


def test_every_number_equals_a_slow_twin(model: HookedModel) -> None:
    batch = batch_of(model, "two_hop", 5)
    readouts = read(model, batch)
    for row, trial in enumerate(batch):
        tokens = mx.array([trial.encoded.ids])
        paths = [sites.resid_post(layer) for layer in range(6)]
        logits, cache = model.run_with_cache(tokens, hooks=paths)
        final = softmax(to_numpy(logits)[0, -1])
        for layer, readout in enumerate(readouts):
            probabilities = softmax(to_numpy(model.unembed(cache[paths[layer]]))[0, -1])
            answer = trial.encoded.answer
            order = np.argsort(-probabilities)
            assert integers(readout.top_ids[row, 0]) == order[:5].tolist()
            assert int(readout.answer_rank[row, 0]) == order.tolist().index(answer)
            close(readout.answer_probability[row, 0], probabilities[answer])
            close(readout.entropy[row, 0], -(probabilities * np.log(probabilities)).sum())
            close(readout.kl_to_final[row, 0], (final * np.log(final / probabilities)).sum())
            close(readout.top_logprobs[row, 0], np.log(probabilities[order[:5]]))


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def close(found: mx.array, expected: object) -> None:
    np.testing.assert_allclose(to_numpy(found), expected, rtol=2e-4, atol=1e-5)


def test_the_final_layer_is_no_distance_from_itself(model: HookedModel) -> None:
    readouts = read(model, batch_of(model, "facts", 8))
    assert float(mx.max(readouts[-1].kl_to_final)) == 0.0
    assert float(mx.min(readouts[0].kl_to_final)) > 0.0


def test_top_k_may_ask_for_more_than_the_vocabulary(model: HookedModel) -> None:
    readouts = read(model, batch_of(model, "facts", 2), top_k=10**6)
    vocab_size = model.config["vocab_size"]
    assert readouts[0].top_ids.shape == (2, 1, vocab_size)
    assert sorted(integers(readouts[0].top_ids[0, 0])) == list(range(vocab_size))


@pytest.mark.parametrize("stream", ["attn_out", "mlp_out"])
@pytest.mark.parametrize("name", ["demo", "gemma2", "gpt2", "recurrent_gemma"])
def test_what_a_part_adds_is_read_by_itself_through_the_models_head(
    name: str, stream: Stream
) -> None:
    """The final norm takes its scale from the part alone; blocks without the part are left out."""
    model = HookedModel.from_pretrained("demo") if name == "demo" else build(name)
    batch = model.to_batch([[3, 5, 7, 11, 13], [2, 4, 6, 8, 10]])
    readouts = logit_lens(
        model,
        batch,
        answers=[5, 9],
        positions=batch.last[:, None],
        top_k=3,
        stream=stream,
    )
    for readout, layer in zip(readouts, layers_with(model, stream), strict=True):
        _, cache = model.run_with_cache(batch.tokens, hooks=[path_of(stream, layer)])
        logits = to_numpy(model.unembed(cache[path_of(stream, layer)]))[:, -1]
        for row, answer in enumerate((5, 9)):
            probabilities = softmax(logits[row])
            assert readout.layer == layer
            close(readout.answer_probability[row, 0], probabilities[answer])
            assert integers(readout.top_ids[row, 0]) == np.argsort(-probabilities)[:3].tolist()


def test_a_part_of_several_streams_is_refused() -> None:
    model = build("gemma3n")
    batch = model.to_batch([[3, 5, 7]])
    read = logit_lens(
        model, batch, answers=[5], positions=batch.last[:, None], top_k=1, stream="mlp_out"
    )
    with pytest.raises(ModelError, match="No lens on mlp_out: this model's head reads several"):
        next(read)
