"""Tokens that differ have texts that differ; views hold ids, units and controls, and compare well.

Frozen history: it imports nothing of mlux and never changes once released. A token of before has
its decoded text alone. Where its vocabulary can be read (the built-in model, a folder or a model in
the hub's cache that are still there) and agrees with every text that is stored of it, the pieces
come from there. Elsewhere `piece` stays NULL and what is shown ends in the id, as in `the<id:278>`,
until a run or a merge that knows the vocabulary fills them in. r0003 cannot hold the pieces.
"""

import importlib.util
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Gives each token its piece and what is shown; makes the views anew."""
    _drop_views(VIEWS_BEFORE)
    bind = op.get_bind()
    rows = list(_token_rows(bind))
    if bind.dialect.name == "sqlite":
        _rebuild_tokens(gain=True)
        if rows:
            bind.execute(
                sa.text("UPDATE tokens SET piece = :piece, shown = :shown WHERE id = :id"), rows
            )
    else:
        op.execute("ALTER TABLE tokens ADD COLUMN piece TEXT, ADD COLUMN shown TEXT")
        if rows:
            bind.execute(
                sa.text("UPDATE tokens SET piece = :piece, shown = :shown WHERE id = :id"), rows
            )
        op.execute("ALTER TABLE tokens ALTER COLUMN shown SET NOT NULL")
        op.execute(
            "ALTER TABLE tokens ADD CONSTRAINT uq_tokens_tokenizer_id_shown "
            "UNIQUE (tokenizer_id, shown)"
        )
    _create_views(VIEWS)


def downgrade() -> None:
    """Goes back to r0003; the decoded texts stay, the pieces are lost."""
    _drop_views(VIEWS)
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_tokens(gain=False)
    else:
        op.execute("ALTER TABLE tokens DROP COLUMN piece, DROP COLUMN shown")
    _create_views(VIEWS_BEFORE)


def _drop_views(views: dict[str, str]) -> None:
    for name in views:
        op.execute(f"DROP VIEW {name}")


def _create_views(views: dict[str, str]) -> None:
    for name, select in views.items():
        op.execute(f"CREATE VIEW {name} AS {select}")


def _rebuild_tokens(*, gain: bool) -> None:
    """Makes SQLite's table anew, since SQLite can add no constraint to one, and fills it."""
    new = [
        sa.Column("piece", sa.Text),
        sa.Column("shown", sa.Text, nullable=False),
        sa.UniqueConstraint("tokenizer_id", "shown", name="uq_tokens_tokenizer_id_shown"),
    ]
    op.create_table(
        "tokens_anew",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("tokenizer_id", sa.Integer, nullable=False),
        sa.Column("token_id", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        *(new[:2] if gain else []),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("tokenizer_id", "token_id", name="uq_tokens_tokenizer_id_token_id"),
        *(new[2:] if gain else []),
        sa.ForeignKeyConstraint(["tokenizer_id"], ["tokenizers.id"], name="fk_tokens_tokenizer_id"),
        sqlite_strict=True,
    )
    kept = "id, tokenizer_id, token_id, text"
    # Filled at once afterwards; until then the id is what tells them apart.
    more = (", shown", ", '<id:' || token_id || '>'") if gain else ("", "")
    op.execute(f"INSERT INTO tokens_anew ({kept}{more[0]}) SELECT {kept}{more[1]} FROM tokens")
    op.drop_table("tokens")
    op.rename_table("tokens_anew", "tokens")


def _token_rows(bind: sa.Connection) -> Iterator[dict[str, Any]]:
    """`id`, `piece` and `shown` of every token."""
    tokenizers = bind.execute(sa.text("SELECT id, vocab_size FROM tokenizers ORDER BY id")).all()
    for tokenizer, size in tokenizers:
        query = sa.text("SELECT id, token_id, text FROM tokens WHERE tokenizer_id = :key")
        tokens = bind.execute(query, {"key": tokenizer}).all()
        query = sa.text("SELECT source, revision FROM models WHERE tokenizer_id = :key")
        models = bind.execute(query, {"key": tokenizer}).all()
        known = _vocabulary([tuple(m) for m in models], size, {t: text for _, t, text in tokens})
        for key, token, text in tokens:
            piece, shown = known.get(token, (None, f"{_visible(text)}<id:{token}>"))
            yield {"id": key, "piece": piece, "shown": shown.replace("\0", "␀")}


def _vocabulary(
    models: list[tuple[str, str | None]], size: int, texts: dict[int, str]
) -> dict[int, tuple[str, str]]:
    """Id → piece and what is shown, of a vocabulary that can have given these texts."""
    for path in (path for model in models for path in _files(*model)):
        try:
            found = _read(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # no tokenizer of a form that is known here
        contents = {token: content for token, (_, content) in found.items()}
        agrees = all(_loose(contents.get(t, "")) == _loose(text) for t, text in texts.items())
        if len(found) == size and agrees:
            return _as_shown(found)
    return {}


def _files(source: str, revision: str | None) -> Iterator[Path]:
    """Where the tokenizer of a model may lie on this machine."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    if source == "demo" or source.startswith("demo-"):
        spec = importlib.util.find_spec("mlux")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            yield Path(folder) / "demo" / "model" / "tokenizer.json"
    yield Path(source) / "tokenizer.json"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        pattern = f"models--{source.replace('/', '--')}/snapshots/{revision or '*'}/tokenizer.json"
        yield from sorted(cache.glob(pattern))


def _read(rules: dict[str, Any]) -> dict[int, tuple[str, str]]:
    """Id → piece and the text it stands for; bytes that are no character as surrogates."""
    model = rules["model"]
    entries = model["vocab"]
    if isinstance(entries, list):  # of a unigram model, with scores
        entries = {piece: token for token, (piece, _) in enumerate(entries)}
    parts = json.dumps([rules.get(k) for k in ("normalizer", "pre_tokenizer", "decoder")])
    in_bytes, spaced = "ByteLevel" in parts, "\\u2581" in parts
    alphabet = _byte_alphabet()
    found = {}
    for piece, token in entries.items():
        content = piece.replace("▁", " ") if spaced else piece
        if in_bytes and all(character in alphabet for character in piece):
            raw = bytes(alphabet[character] for character in piece)
            content = raw.decode("utf-8", "surrogateescape")
        elif not in_bytes and re.fullmatch("<0x[0-9A-F]{2}>", piece):
            content = bytes([int(piece[3:5], 16)]).decode("utf-8", "surrogateescape")
        found[int(token)] = piece, content
    for added in rules.get("added_tokens", []):
        found.setdefault(int(added["id"]), (added["content"], added["content"]))
    return found


def _loose(text: str) -> str:
    """What a decoder leaves of a text in any case: no spaces, and bytes as a replacement."""
    whole = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "␀")
    return re.sub("\ufffd+", "\ufffd", "".join(whole.split()))


def _as_shown(found: dict[int, tuple[str, str]]) -> dict[int, tuple[str, str]]:
    shown = {
        token: piece if re.fullmatch("<0x[0-9A-F]{2}>", piece) and piece != content
        else _visible(content)
        for token, (piece, content) in found.items()
    }  # fmt: skip
    times = Counter(shown.values())
    return {
        token: (
            piece.replace("\0", "␀"),
            shown[token] if times[shown[token]] == 1 else f"{shown[token]}<id:{token}>",
        )
        for token, (piece, _) in found.items()
    }


def _byte_alphabet() -> dict[str, int]:
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_MARKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


def _visible(text: str) -> str:
    def part(match: re.Match[str]) -> str:
        character = match[0]
        if character in _MARKS:
            return _MARKS[character]
        if "\udc80" <= character <= "\udcff":
            return f"<0x{ord(character) - 0xDC00:02X}>"
        if match["mark"] or not character.isprintable() or character in _MARKS.values():
            return f"<U+{ord(character):04X}>"
        return character

    return re.sub(r"(?P<mark><(?=0x|U\+|id:))|(?s:.)", part, text)


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

RUN_OVERVIEW_BEFORE = """
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

RESULTS_BEFORE = """
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

PREDICTIONS_BEFORE = """
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
VIEWS_BEFORE = {
    "run_overview": RUN_OVERVIEW_BEFORE,
    "results": RESULTS_BEFORE,
    "predictions": PREDICTIONS_BEFORE,
}
