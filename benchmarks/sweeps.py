"""What planning a sweep gives: `sweep_edits` against the plain loop, in time and in memory.

    python benchmarks/sweeps.py [TOKENS] [BUDGET_MIB] [REPEATS]

On a random Llama of 12 layers and 40 million parameters: every head, and the residual stream, the
attention and the MLP output at every layer and position, patched from one random prompt into
another. The plain loop runs the whole model from the tokens for each patch, with one hook, as one
would write it by hand; it is timed on every so-manieth patch, taking turns with the whole sweep,
and each of those patches has to give the same logits. Demanded are 4 times the speed of the loop,
agreement to 1e-3, and a peak within the budget.
"""

import sys
import time

from random_llama import random_llama

from mlux.engine import HookedModel, HookWrapper, memory
from mlux.methods.edits import HEAD_SITES, Edit, SiteName
from mlux.methods.sweeps import every_edit, sweep_edits

import mlx.core as mx  # isort: skip

SAMPLED = 24
"""Patches of the loop in one turn; it would take minutes to run all."""
SITES: tuple[SiteName, ...] = ("head", "resid_pre", "attn_out", "mlp_out")


def looped(model: HookedModel, ids: list[int], source: mx.array, edit: Edit) -> mx.array:
    """The last logits after one patch, the whole model from the tokens on."""

    def patch(inputs: object, output: mx.array, wrapper: HookWrapper) -> mx.array:
        patched = output[...]
        if edit.head is not None:
            patched[:, edit.head] = source[:, edit.head]
        else:
            patched[:, edit.position] = source[:, edit.position]
        return patched

    return model.run_with_hooks(mx.array([ids]), hooks=[(edit.path, patch)])[0, -1]


def measure(model: HookedModel, site: SiteName, tokens: int, budget: int, repeats: int) -> bool:
    """Prints a line for a site; whether it keeps to what is demanded."""
    size = model.config["vocab_size"]
    ids, others = (mx.random.randint(0, size, (tokens,)).tolist() for _ in range(2))
    edits = every_edit(model, site, tokens, by_position=site not in HEAD_SITES)
    sampled = edits[:: max(1, len(edits) // SAMPLED)]
    sweeps, loops, worst, peak = [], [], 0.0, 0
    for _ in range(repeats):
        memory.reset_peak()
        before = mx.get_active_memory()
        start = time.perf_counter()
        swept = {
            row: part.logits[i]
            for part in sweep_edits(model, ids, edits, source=others, memory=budget)
            for i, row in enumerate(part.rows)
        }
        sweeps.append(time.perf_counter() - start)
        peak = max(peak, memory.peak() - before - sum(x.nbytes for x in swept.values()))
        start = time.perf_counter()
        paths = sorted({edit.path for edit in edits})
        _, cache = model.run_with_cache(mx.array([others]), hooks=paths)
        one = time.perf_counter() - start
        found = {edit: looped(model, ids, cache[edit.path], edit) for edit in sampled}
        each = (time.perf_counter() - start - one) / len(sampled)
        loops.append(one + each * len(edits))
        worst = max(worst, *(mx.abs(found[e] - swept[e]).max().item() for e in sampled))
    # The best of each: what else runs on the machine can only add time.
    loop, swept_in = min(loops), min(sweeps)
    ratio = loop / swept_in
    fine = ratio >= 4 and worst <= 1e-3 and peak <= budget
    print(
        f"{site:10}{len(edits):6}{loop:9.2f}{swept_in:9.2f}"
        f"{ratio:8.1f}{worst:12.1e}{peak / 2**20:9.1f}{'' if fine else '  missed'}",
        flush=True,
    )
    return fine


def main(tokens: int = 16, budget_mib: int = 64, repeats: int = 5) -> int:
    """Measures each site; 1 if one misses a demand."""
    model = random_llama()
    mx.random.seed(1)
    print(f"12 layers, 40M parameters, {tokens} tokens, budget {budget_mib} MiB; seconds, best")
    print(f"{'site':10}{'edits':>6}{'loop':>9}{'sweep':>9}{'ratio':>8}{'difference':>12}{'MiB':>9}")
    fine = [measure(model, site, tokens, budget_mib << 20, repeats) for site in SITES]
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
