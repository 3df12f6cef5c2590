"""Rounds after the first: the challenger makes new drafts, and feedback on them makes new pairs.

A round does in one go what the stages from `draft` to `validate@pairs` do: the same calls, the same
rows, the same contract. In the pipeline these are steps of their own (`steps.rounds`), and
`train_one` trains each round.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cowest import checkpoints, collaboration, io, preferences, version
from cowest.aligning import offline
from cowest.aligning.settings import Asking, DPOConfig
from cowest.errors import ConfigError, ContractError
from cowest.expectations import contract
from cowest.failures import Failures
from cowest.models import hf
from cowest.models.estimate import announce
from cowest.preferences import UNASKED
from cowest.progress import watch
from cowest.prompts import Prompts, expect_candidates
from cowest.protocols import ChatModel
from cowest.records import Draft, Feedback, PreferencePair, Query, Refinement, of_query
from cowest.scorers.judge import JudgeConfig
from cowest.version import Version


def train(
    pairs: Path,
    feedback: Path,
    policy: Path,
    kept: Path,
    folder: Path,
    base: str,
    config: DPOConfig,
) -> list[list[PreferencePair]]:
    """Trains round after round into `folder`; returns the rows that each round learned from.

    Each trained round stays in `kept` until the stage ends, so that a restart does not repeat it.
    """
    if checkpoints.processes() > 1:
        raise ConfigError(
            "dpo: several rounds train in one process, and torchrun started several: run the stage "
            "without torchrun, or set `dpo.rounds: 1`"
        )
    prompts = version.expect(policy).prompts
    expect_candidates(config.asking().candidates, prompts, "dpo.ask")
    found: list[list[PreferencePair]] = []
    reading = hf.open_base(config.policy)
    before = policy
    for number in range(1, config.rounds + 1):
        now = kept / f"round-{number}"
        learned = kept / f"round-{number}.jsonl"
        if number == 1:
            learned = pairs
        elif not learned.is_file():
            next_pairs(number, feedback, before / "adapter", prompts, config, learned)
        rows = offline.readable(reading, list(io.read(learned, PreferencePair)))
        if too_few(number, rows, config):
            break
        if not now.is_dir():
            training = kept / f"training-{number}"
            training.mkdir(exist_ok=True)
            with io.replacing_folder(now) as made:
                train_one(number, rows, before, training, made, base, config)
        found.append(rows)
        before = now
    shutil.copytree(before, folder, dirs_exist_ok=True)
    return found


def trained(challenger: Version) -> int:
    """Returns the number of rounds that a challenger was trained in, where there are several."""
    return 0 if challenger.aligned is None else len(challenger.aligned.rows)


def too_few(number: int, rows: Sequence[PreferencePair], config: DPOConfig) -> bool:
    """True if a later round left too few rows to be trained on, so that the one before is the last.

    Says so.
    """
    least = config.asking().pairs.min_pairs
    if number == 1 or len(rows) >= max(least, 1):
        return False
    print(
        f"dpo: round {number} leaves {len(rows)} rows to learn from, and dpo.ask.pairs asks for "
        f"{least}: round {number - 1} is the last",
        file=sys.stderr,
    )
    return True


def train_one(
    number: int,
    rows: Sequence[PreferencePair],
    before: Path,
    kept: Path,
    folder: Path,
    base: str,
    config: DPOConfig,
) -> list[PreferencePair]:
    """Trains one round into `folder` from the version in `before`, and continues its curves.

    Returns the rows that were learned.
    """
    if checkpoints.is_first():
        print(f"dpo: round {number} learns from {len(rows)} rows", file=sys.stderr)
    # The policy that the first round starts from has curves of SFT.
    if number > 1:
        shutil.copy(before / "curves.jsonl", folder)
    return offline.train(rows, before / "adapter", kept, folder, base, config)


def queries_of(feedback: Path) -> Iterator[Query]:
    """Yields the queries of a feedback file, in order."""
    for group in io.groups(feedback, Feedback):
        yield of_query(group[0])


def next_pairs(
    number: int, feedback: Path, adapter: Path, prompts: Prompts, config: DPOConfig, pairs: Path
) -> int:
    """Writes the rows that round `number` learns from; returns how many there are.

    `adapter` drafts the queries of `feedback` anew. Raises ContractError for rows that break the
    contract of pairs, and for too many failed rows; too few pairs are no error.
    """
    ask = config.asking()
    failures = Failures("dpo.ask")
    with tempfile.TemporaryDirectory(prefix=".round.", dir=pairs.parent) as scratch:
        queries, drafts = Path(scratch, "queries.jsonl"), Path(scratch, "drafts.jsonl")
        refined, fed = Path(scratch, "refined.jsonl"), Path(scratch, "feedback.jsonl")
        made = Path(scratch, "pairs.jsonl")
        io.write(queries, queries_of(feedback))
        with config.policy.open(adapter=adapter) as policy:
            rows = collaboration.draft(
                io.read(queries, Query), policy, prompts, ask.drafting, ask.candidates
            )
            io.write(drafts, watch(rows, f"round {number} drafts"))
        _refine(drafts, refined, prompts, config, ask)
        _score(refined, fed, ask, failures)
        failures.judge(ask.max_failed)
        if not io.write(made, _pairs(fed, prompts, config, ask)):
            return io.write(pairs, [])
        return _valid(number, made, queries, ask, pairs)


def _refine(drafts: Path, refined: Path, prompts: Prompts, config: DPOConfig, ask: Asking) -> None:
    """Writes the refinements of the drafts, or rows without any where the objective asks for
    none."""
    if config.align in UNASKED:
        io.write(refined, collaboration.unrefined(io.groups(drafts, Draft)))
        return

    def rows(strong: ChatModel) -> Iterator[Refinement]:
        return collaboration.refine(io.groups(drafts, Draft), strong, prompts, ask.refining)

    announce("dpo", ask.strong, rows)
    with ask.strong.open() as strong:
        io.write(refined, watch(rows(strong), "round refinements"))


def _score(refined: Path, fed: Path, ask: Asking, failures: Failures) -> None:
    judge = ask.scorer
    if isinstance(judge, JudgeConfig):
        announce(
            "dpo",
            judge.model,
            lambda model: collaboration.score(io.groups(refined, Refinement), judge.over(model)),
        )
    with ask.scorer.open() as scorer:
        rows = collaboration.score(io.groups(refined, Refinement), scorer)
        io.write(fed, failures.counted(watch(rows, "round scores")))


def _pairs(fed: Path, prompts: Prompts, config: DPOConfig, ask: Asking) -> Iterator[PreferencePair]:
    for group in io.groups(fed, Feedback):
        yield from preferences.pairs(group, ask.rule, prompts.draft, config.align)


def _valid(number: int, made: Path, queries: Path, ask: Asking, pairs: Path) -> int:
    """Writes the pairs that meet their contract; returns how many there are."""
    judgement = contract.judge([made], queries, ask.pairs)
    broken = [one for one in judgement.broken if one.rule.name != "pairs"]
    if broken:
        said = "; ".join(f"expected that {one.rule.says}: {one.found}" for one in broken)
        raise ContractError(
            f"dpo: the pairs of round {number} break their contract, dpo.ask.pairs: {said}"
        )
    contract.write_valid([made], pairs, judgement)
    return judgement.found.left
