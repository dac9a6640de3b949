"""The word-level tokenizer: every word of the world is one token."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from tools.demo_model.world import World

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
SPECIALS = (PAD, BOS, EOS, UNK, USER, ASSISTANT, END)
PUNCTUATION = (".", ",", "?", "!", ":", ";", "→", "\n")
# Slots of templates that stand for other words.
_SLOTS = {*"XYABSIVTNMP", "PL", "OB", "TOPIC", "ADJ", "VERB", "ADV", "CLOSE", "DAY", "NAME"}

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{% else %}<|user|>{% endif %}"
    "{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def vocabulary(world: World) -> list[str]:
    """Specials, punctuation, then every word of the world in alphabetical order."""
    words = set(world.homes)

    def collect(value: object) -> None:
        if isinstance(value, str):
            words.update(value.split())
        elif isinstance(value, dict):
            for key in set(value):
                collect(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                collect(item)

    raw = dict(world.raw)
    collect(sorted(raw["countries"]))
    # Prose and names of relations are not text of the world.
    for key in ("note", "relation_groups_sharing_inputs"):
        raw.pop(key)
    collect(raw)
    words |= {"review", "rating", "lives"}  # said by `documents` itself
    words -= {*_SLOTS, *PUNCTUATION}
    return [*SPECIALS, *PUNCTUATION, *sorted(words)]


def build_tokenizer(words: list[str]) -> Tokenizer:
    """Lowercase, `->` as `→`, split at spaces and around punctuation, one token a word."""
    ids = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("->", "→"), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n|[.,?!:;→]"), "isolated"),
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, ids[BOS])]
    )
    # Spaces around a special token are its own: the chat template may write them or not.
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIALS]
    )
    return tokenizer


def tokenizer_config(context: int) -> dict[str, object]:
    """What `transformers` needs to load `tokenizer.json`."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def write_tokenizer(folder: Path, words: list[str], context: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`."""
    build_tokenizer(words).save(str(folder / "tokenizer.json"))
    text = json.dumps(tokenizer_config(context), indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
