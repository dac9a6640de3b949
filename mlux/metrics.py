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
