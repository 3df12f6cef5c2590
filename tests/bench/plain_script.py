"""What a user would write in place of `cowest prepare` and `cowest validate`: pandas, and Great
Expectations on the table itself.

python tests/bench/plain_script.py prepare raw.jsonl queries.jsonl corpus.jsonl
python tests/bench/plain_script.py validate queries.jsonl valid.jsonl

It makes rows with the same fields and applies the same rules; it names no bad row by its line,
holds everything in memory, and takes the data's word for every type. It knows nothing of CoWest: it
is what the bench compares with (tests/bench/data.py).
"""

import hashlib
import json
import sys
from typing import Any

import pandas as pd

SHARES = (("train", 0.7), ("dev", 0.1), ("test", 0.2))


def split_of(group: str) -> str:
    """By a digest of the group, so that a group stays in one split."""
    point = int(hashlib.sha256(group.encode()).hexdigest()[:13], 16) / 16**13
    for split, share in SHARES:
        point -= share
        if point < 0:
            return split
    return "train"


def identity(prompt: list[dict[str, str]], targets: list[str]) -> str:
    """A digest of what is asked and what is right."""
    return hashlib.sha256(json.dumps([prompt, targets], sort_keys=True).encode()).hexdigest()[:20]


def prepare(raw: str, queries: str, corpus: str) -> None:
    """Raw rows become queries, and those of train a corpus."""
    table = pd.read_json(raw, lines=True, dtype=False)
    for column in ("id", "question", "answer", "product"):
        empty = table[column].isna() | (table[column].str.strip() == "")
        if empty.any():
            raise SystemExit(f"{int(empty.sum())} rows have no {column}")
    if table["id"].duplicated().any():
        raise SystemExit("an id comes twice")
    found = pd.DataFrame(
        {
            "group": table["product"],
            "split": table["product"].map(split_of),
            "prompt": [[{"role": "user", "content": question}] for question in table["question"]],
            "targets": [[answer] for answer in table["answer"]],
            "ideal": table["why"],
            "tags": [[f"topic: {topic}"] for topic in table["topic"]],
        }
    )
    found.insert(
        0,
        "id",
        [
            identity(prompt, targets)
            for prompt, targets in zip(found["prompt"], found["targets"], strict=True)
        ],
    )
    found.to_json(queries, orient="records", lines=True, force_ascii=False)
    train = found[found["split"] == "train"]
    taught = pd.DataFrame({"prompt": train["prompt"], "completion": train["ideal"]})
    taught.to_json(corpus, orient="records", lines=True, force_ascii=False)


def validate(queries: str, valid: str) -> None:
    """A suite of Great Expectations on the table; rows that break a rule are left out."""
    import great_expectations as gx
    import great_expectations.expectations as gxe

    table = pd.read_json(queries, lines=True, dtype=False)
    table["text"] = table["prompt"].map(lambda prompt: prompt[-1]["content"])
    table["target"] = table["targets"].map(lambda targets: targets[0])
    table["plain"] = table["text"].str.casefold().str.split().str.join(" ")
    table["group_splits"] = table.groupby("group")["split"].transform("nunique")
    table["prompt_splits"] = table.groupby("plain")["split"].transform("nunique")
    context = gx.get_context(mode="ephemeral")
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset(name="queries")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    suite: Any = gx.ExpectationSuite(
        name="queries",
        expectations=[
            gxe.ExpectColumnValuesToBeUnique(column="id"),
            gxe.ExpectColumnValuesToNotBeNull(column="text"),
            gxe.ExpectColumnValueLengthsToBeBetween(column="text", min_value=1, max_value=20_000),
            gxe.ExpectColumnValueLengthsToBeBetween(column="target", min_value=1),
            gxe.ExpectColumnValuesToBeBetween(column="group_splits", min_value=1, max_value=1),
            gxe.ExpectColumnValuesToBeBetween(column="prompt_splits", min_value=1, max_value=1),
            gxe.ExpectColumnDistinctValuesToContainSet(column="split", value_set=["train", "test"]),
        ],
    )
    outcome = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    bad: set[int] = set()
    for result in outcome.results:
        bad.update(result.result.get("unexpected_index_list") or [])
    own = ["id", "group", "split", "prompt", "targets", "ideal", "tags"]
    table.drop(index=sorted(bad))[own].to_json(
        valid, orient="records", lines=True, force_ascii=False
    )
    if not outcome.success:
        raise SystemExit("the queries do not meet the suite")


if __name__ == "__main__":
    {"prepare": prepare, "validate": validate}[sys.argv[1]](*sys.argv[2:])
