"""The views for people: names instead of ids, NULL instead of -1, nothing from deleted runs.

A view that changes here needs a revision in `migrations/versions`, like a table. What is computed
is cast: only so do SQLite's comparisons take it for a number, as in `layer = '3'`.
"""

RUN_OVERVIEW = """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, s.name AS prompt_set, r.status,
  CAST((SELECT count(*) FROM trials AS t WHERE t.run_id = r.id) AS INTEGER) AS trials,
  CAST((SELECT count(*) FROM trials AS t WHERE t.run_id = r.id AND t.status = 'done')
    AS INTEGER) AS done,
  CAST((SELECT count(*) FROM trials AS t WHERE t.run_id = r.id AND t.status = 'failed')
    AS INTEGER) AS failed,
  r.seed, r.batch_size, r.note, m.dtype, m.quant_bits, r.device, r.created_at, r.started_at,
  r.finished_at, r.seconds, r.git_commit, r.error
FROM runs AS r
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN prompt_sets AS s ON s.id = r.prompt_set_id
WHERE r.deleted_at IS NULL
"""

RESULTS = """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, p.text AS prompt,
  c.label AS condition, k.name AS metric, CAST(NULLIF(v.layer, -1) AS INTEGER) AS layer,
  CAST(NULLIF(v.head, -1) AS INTEGER) AS head,
  CAST(NULLIF(v.position, -1) AS INTEGER) AS position, v.value,
  v.trial, p.label, p.answer, o.label AS controls, t.prompt_id, t.condition_id, v.metric_id,
  k.unit AS metric_unit, r.status, m.n_layers
FROM layer_results AS v
JOIN runs AS r ON r.id = v.run_id
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN trials AS t ON t.run_id = v.run_id AND t.trial = v.trial
JOIN prompts AS p ON p.id = t.prompt_id
JOIN conditions AS c ON c.id = t.condition_id
JOIN metrics AS k ON k.id = v.metric_id
LEFT JOIN conditions AS o ON o.id = c.controls_id
WHERE r.deleted_at IS NULL
"""

PREDICTIONS = """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, p.text AS prompt,
  c.label AS condition, CAST(NULLIF(v.layer, -1) AS INTEGER) AS layer, v.position, v.rank,
  w.token_id, w.shown AS token, CAST(exp(v.logprob) AS DOUBLE PRECISION) AS probability,
  v.trial, p.label, p.answer, t.prompt_id, t.condition_id, r.status, m.n_layers
FROM token_predictions AS v
JOIN runs AS r ON r.id = v.run_id
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN trials AS t ON t.run_id = v.run_id AND t.trial = v.trial
JOIN prompts AS p ON p.id = t.prompt_id
JOIN conditions AS c ON c.id = t.condition_id
JOIN tokens AS w ON w.id = v.token
WHERE r.deleted_at IS NULL
"""

CONTROLLED_EFFECTS = """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, p.text AS prompt,
  c.label AS condition, o.label AS control, k.name AS metric,
  CAST(NULLIF(v.layer, -1) AS INTEGER) AS layer, CAST(NULLIF(v.head, -1) AS INTEGER) AS head,
  CAST(NULLIF(v.position, -1) AS INTEGER) AS position, v.value, w.value AS control_value,
  CAST(v.value - w.value AS DOUBLE PRECISION) AS difference, v.trial, t.prompt_id,
  t.condition_id, v.metric_id, k.unit AS metric_unit, r.status, m.n_layers
FROM layer_results AS v
JOIN runs AS r ON r.id = v.run_id
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN trials AS t ON t.run_id = v.run_id AND t.trial = v.trial
JOIN prompts AS p ON p.id = t.prompt_id
JOIN conditions AS c ON c.id = t.condition_id
JOIN metrics AS k ON k.id = v.metric_id
JOIN conditions AS o ON o.controls_id = c.id
JOIN trials AS u ON u.run_id = t.run_id AND u.prompt_id = t.prompt_id AND u.condition_id = o.id
JOIN layer_results AS w ON w.run_id = v.run_id AND w.metric_id = v.metric_id
  AND w.trial = u.trial AND w.layer = v.layer AND w.head = v.head AND w.position = v.position
WHERE r.deleted_at IS NULL
"""

FAILURES = """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, p.text AS prompt,
  c.label AS condition, t.trial, t.error, t.finished_at, t.prompt_id, t.condition_id, r.status
FROM trials AS t
JOIN runs AS r ON r.id = t.run_id
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN prompts AS p ON p.id = t.prompt_id
JOIN conditions AS c ON c.id = t.condition_id
WHERE r.deleted_at IS NULL AND t.status = 'failed'
"""

NAMED_GENERATIONS = """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, p.text AS prompt,
  c.label AS condition, g.sample, g.text, g.trial, p.label, p.answer, t.prompt_id,
  t.condition_id, r.status
FROM generations AS g
JOIN runs AS r ON r.id = g.run_id
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN trials AS t ON t.run_id = g.run_id AND t.trial = g.trial
JOIN prompts AS p ON p.id = t.prompt_id
JOIN conditions AS c ON c.id = t.condition_id
WHERE r.deleted_at IS NULL
"""

NAMED_PARAMS = """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, x.name, x.value, x.number
FROM run_params AS x
JOIN runs AS r ON r.id = x.run_id
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
WHERE r.deleted_at IS NULL
"""

NAMED_TAGS = """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, x.name, x.value
FROM run_tags AS x
JOIN runs AS r ON r.id = x.run_id
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
WHERE r.deleted_at IS NULL
"""

NAMED_CONDITIONS = """
SELECT c.id AS condition_id, c.label AS condition, o.label AS controls, x.name, x.value
FROM condition_values AS x
JOIN conditions AS c ON c.id = x.condition_id
LEFT JOIN conditions AS o ON o.id = c.controls_id
"""

VIEWS = {
    "run_overview": RUN_OVERVIEW,
    "results": RESULTS,
    "predictions": PREDICTIONS,
    "controlled_effects": CONTROLLED_EFFECTS,
    "failures": FAILURES,
    "named_generations": NAMED_GENERATIONS,
    "named_params": NAMED_PARAMS,
    "named_tags": NAMED_TAGS,
    "named_conditions": NAMED_CONDITIONS,
}
"""Name → SELECT."""
