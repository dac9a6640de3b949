"""The views for people: names instead of ids, NULL instead of -1, nothing from deleted runs.

A view that changes here needs a revision in `migrations/versions`, like a table.
"""

RUN_OVERVIEW = """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, s.name AS prompt_set, r.status,
  (SELECT count(*) FROM trials AS t WHERE t.run_id = r.id) AS trials,
  (SELECT count(*) FROM trials AS t WHERE t.run_id = r.id AND t.status = 'done') AS done,
  (SELECT count(*) FROM trials AS t WHERE t.run_id = r.id AND t.status = 'failed') AS failed,
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
  c.label AS condition, k.name AS metric, NULLIF(v.layer, -1) AS layer,
  NULLIF(v.head, -1) AS head, NULLIF(v.position, -1) AS position, v.value,
  v.trial, p.label, p.answer, o.label AS controls
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
  c.label AS condition, NULLIF(v.layer, -1) AS layer, v.position, v.rank, w.text AS token,
  exp(v.logprob) AS probability, v.trial, p.label, p.answer
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

VIEWS = {"run_overview": RUN_OVERVIEW, "results": RESULTS, "predictions": PREDICTIONS}
"""Name → SELECT."""
