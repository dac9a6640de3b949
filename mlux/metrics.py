"""Metrics that several experiments share, so that one name means one thing in every table.

An experiment declares those that it yields, beside its own. A metric that a comparison needs in
another definition gets another name.
"""

from mlux.results import Metric

LOGIT_DIFF = Metric(
    name="logit_diff",
    unit="logits",
    better="higher",
    description="logit(answer) - logit(wrong answer) at the scored position.",
)
CLEAN_LOGIT_DIFF = Metric(
    name="clean_logit_diff",
    unit="logits",
    better="higher",
    description="The logit difference of the clean run.",
)
CORRUPTED_LOGIT_DIFF = Metric(
    name="corrupted_logit_diff",
    unit="logits",
    better="lower",
    description="The logit difference of the corrupted run.",
)
ANSWER_PROBABILITY = Metric(
    name="answer_probability",
    unit="probability",
    better="higher",
    description="The answer's probability.",
)
ANSWER_RANK = Metric(
    name="answer_rank",
    unit="rank",
    better="lower",
    description="Other tokens that are at least as probable as the answer; 0 is on top.",
)
ACCURACY = Metric(
    name="accuracy",
    unit="accuracy",
    better="higher",
    description="1 where the answer is the most probable token, else 0.",
)
LOSS = Metric(
    name="loss",
    unit="nats",
    better="lower",
    description="-log p(answer) at the scored position.",
)
KL = Metric(
    name="kl",
    unit="nats",
    description="KL(the model's own prediction ‖ the edited prediction) at the scored position.",
)
PATCHING_EFFECT = Metric(
    name="patching_effect",
    unit="fraction",
    better="higher",
    description="Share of the logit difference that a patch moves: 0 is the run that is patched, "
    "1 the run that the patch comes from.",
)
KL_TO_CLEAN = Metric(
    name="kl_to_clean",
    unit="nats",
    better="lower",
    description="KL(the clean run's prediction ‖ the edited prediction) at the scored position.",
)
KL_TO_FINAL = Metric(
    name="kl_to_final",
    unit="nats",
    better="lower",
    description="KL(the model's prediction ‖ the lens's prediction).",
)
TEXT_LOSS = Metric(
    name="text_loss",
    unit="nats",
    better="lower",
    description="Mean -log p of the generated tokens under the unsteered model.",
)
PERPLEXITY = Metric(
    name="perplexity",
    unit="tokens",
    better="lower",
    description="exp(text_loss): how many equally likely tokens the text is as surprising as.",
)
DISTINCT_1 = Metric(
    name="distinct_1",
    unit="share",
    better="higher",
    description="Distinct tokens as a share of the generated ones.",
)
DISTINCT_2 = Metric(
    name="distinct_2",
    unit="share",
    better="higher",
    description="Distinct bigrams as a share of all.",
)
REPETITION = Metric(
    name="repetition",
    unit="share",
    better="lower",
    description="4-grams of the generation that came before in it (seq-rep-4).",
)
TEXT_QUALITY = (TEXT_LOSS, PERPLEXITY, DISTINCT_1, DISTINCT_2, REPETITION)
"""What a generated text is worth as language."""
