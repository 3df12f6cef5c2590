"""The turn as a KFP v2 pipeline: the stages, names and edges of `cowest turn`, pin to register.

    preflight -> pin -> prepare -> validate -> sft
      -> for each shard: draft -> refine -> score -> (joined) validate -> pair -> validate -> dpo
      -> with `dpo.rounds`, each later round: the same from draft to dpo, by the challenger so far
      -> for each shard: evaluate -> (joined) compare -> register -> page
    summary, whatever became of the others

Each stage has its own section of the settings compiled in. What an operator changes from run to run
is an input of the pipeline.
"""

import json
from pathlib import Path
from typing import Any

from kfp import dsl

from cowest import preflight as checks
from cowest.config import load, parse, section
from cowest.ports import config_of
from cowest.profiles import Profile
from cowest.stages import STAGES, main_of
from cowest.steps import asking, rounds
from cowest_components.collect_feedback import collect_feedback
from cowest_components.collect_trials import collect_trials
from cowest_components.compare import compare
from cowest_components.dpo import dpo
from cowest_components.draft import draft
from cowest_components.evaluate import evaluate
from cowest_components.next_round import next_round
from cowest_components.page import page
from cowest_components.pair import pair
from cowest_components.pin import pin
from cowest_components.preflight import preflight
from cowest_components.prepare import prepare
from cowest_components.refine import refine
from cowest_components.register import register
from cowest_components.score import score
from cowest_components.sft import sft
from cowest_components.split import split
from cowest_components.summary import summary
from cowest_components.validate import validate
from cowest_pipelines.placing import place

NAME = "flywheel"
"""Name of the pipeline."""
DESCRIPTION = "One turn of the wheel, from the pre-flight to the decision."


def flywheel(params: Path, profile: Profile) -> Any:
    """The pipeline of one turn with the settings of a params.yaml. Raises ConfigError."""
    sections = load(params)
    config = {stage: section(sections, stage, str(params)) for stage in STAGES}
    # Settings of two stages that disagree are found here, and not on the cluster an hour later.
    parsed = {}
    for stage, values in config.items():
        parsed[stage] = parse(config_of(main_of(stage)), values, f"{params}: {stage}")
    checks.agree(parsed, str(params))
    asking.expect_keys(profile, parsed, str(params))
    # As text: KFP's compiler takes no null, and hands whole numbers on as floats.
    texts = {stage: json.dumps(values) for stage, values in config.items()}
    later = []
    if parsed["dpo"].rounds > 1:
        texts["dpo"] = rounds.settings(1, parsed)["dpo"].model_dump_json()
        for number in range(2, parsed["dpo"].rounds + 1):
            of_round = rounds.settings(number, parsed)
            later.append({stage: one.model_dump_json() for stage, one in of_round.items()})
    text = params.read_text(encoding="utf-8")

    @dsl.pipeline(name=NAME, description=DESCRIPTION)
    def turn(
        repository: str = "",
        revision: str = "",
        budget_usd: str = "",
        shards: int = profile.shards,
        force: bool = False,
    ) -> None:
        """One turn.

        Args:
            repository: Address of the git repository of the project, from which the data come.
                Empty: the folder in which the steps run.
            revision: git revision of the data. Empty: turn.rev of params.yaml.
            budget_usd: US dollars that all calls of the turn may cost, as 20 or 12.50. Empty:
                pin.budget of params.yaml.
            shards: Parts of the queries, each drafted, refined, scored and evaluated by steps of
                its own. Their number changes no row.
            force: Decides the turn anew if it was decided before. Stored answers stay.
        """
        run = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        told = place(summary(run=run, text=text), "summary", profile)
        with dsl.ExitHandler(told, name="turn"):
            begun = preflight(
                text=text,
                run=run,
                repository=repository,
                revision=revision,
                budget_usd=budget_usd,
                force=force,
            )
            place(begun, "preflight", profile)
            # A condition reads only the unnamed value of a task of its own level: with a named one
            # `kfp.local` takes no branch and ends well. It is no truth of Python's.
            with dsl.If(begun.outputs["Output"] == True, name="open"):  # noqa: E712
                _Turn(texts, later, profile).add(begun.outputs, shards)

    return turn


class _Turn:
    """Adds the tasks of a turn to the pipeline that is being made."""

    def __init__(
        self, config: dict[str, str], later: list[dict[str, str]], profile: Profile
    ) -> None:
        """`later` has the settings of the stages in each round after the first."""
        self._config, self._later, self._profile = config, later, profile

    def add(self, begun: Any, shards: Any) -> None:
        """Adds the tasks that follow the pre-flight."""
        raw, params = begun["raw"], begun["params"]
        pinned = self._placed(pin(raw=raw, params=params, version=begun["version"]), "pin")
        turn, champion, looks = (pinned.outputs[name] for name in ("turn", "champion", "looks"))
        made = self._stage(prepare, "prepare", turn=turn, raw=raw)
        queries = self._valid("queries", turn, made["queries"], raw)
        corpus = self._valid("corpus", turn, made["corpus"], queries["valid"])
        start = pinned.outputs["start"]
        training = {"turn": turn, "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        trained = self._stage(sft, "sft", corpus=corpus["valid"], start=start, **training)
        policy = trained["policy"]

        names = self._placed(split(shards=shards), "split").output
        drafting = {"queries": queries["valid"], "policy": policy}
        scored = self._feedback(turn, params, names, drafting, self._config)
        feedback = self._valid("feedback", turn, scored, champion)
        paired = self._stage(pair, "pair", turn=turn, feedback=feedback["valid"])
        pairs = self._valid("pairs", turn, paired["pairs"], queries["valid"])
        learned = {"pairs": pairs["valid"], "feedback": feedback["valid"]}
        aligned = self._stage(dpo, "dpo", policy=policy, **learned, **training)
        challenger = aligned["challenger"]
        for number, config in enumerate(self._later, 2):
            given = {"feedback": feedback["valid"], "challenger": challenger, "shards": shards}
            challenger = self._round(number, config, turn, params, given)

        versions = {"policy": policy, "challenger": challenger}
        given = {**versions, "queries": queries["valid"], "champion": champion, "raw": raw}
        tried = self._trials(turn, params, shards, given)
        judging = {**versions, **tried, "looks": looks, "turn": turn}
        judged = self._placed(compare(**judging, config=self._config["compare"]), "compare")

        deciding = {
            **versions,
            "turn": turn,
            "params": params,
            "report": judged.outputs["report"],
            "queries": queries["valid"],
            "corpus": corpus["valid"],
            "pairs": pairs["valid"],
            "trials": tried["trials"],
        }
        told = {
            **deciding,
            "start": start,
            "champion": champion,
            "quarantine": made["quarantine"],
            "feedback": feedback["valid"],
            "raw_pairs": paired["pairs"],
            "queries_found": queries["findings"],
            "corpus_found": corpus["findings"],
            "feedback_found": feedback["findings"],
            "pairs_found": pairs["findings"],
        }
        with dsl.If(judged.outputs["Output"] == True, name="passed"):  # noqa: E712
            self._decide("promote", {**deciding, "looks": looks}, told)
        with dsl.Else(name="failed"):
            self._decide("refuse", {**deciding, "looks": looks}, told)

    def _round(
        self, number: int, config: dict[str, str], turn: Any, params: Any, given: dict[str, Any]
    ) -> Any:
        """The challenger of a later round: drafted by the one before, paired and trained on."""
        begun = self._placed(next_round(number=number, **given), "next_round")
        queries, before = begun.outputs["queries"], given["challenger"]
        drafting = {"queries": queries, "policy": before}
        scored = self._feedback(turn, params, begun.outputs["Output"], drafting, config, number)
        paired = self._stage(pair, "pair", config, turn=turn, feedback=scored)
        pairs = self._valid("pairs", turn, paired["pairs"], queries, config)
        # Its spread of gains is the first round's.
        learned = {"pairs": pairs["valid"], "feedback": given["feedback"], "policy": before}
        training = {"turn": turn, "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        return self._stage(dpo, "dpo", config, **learned, **training)["challenger"]

    def _feedback(
        self,
        turn: Any,
        params: Any,
        names: Any,
        drafting: dict[str, Any],
        config: dict[str, str],
        number: int = 1,
    ) -> Any:
        """The feedback of all queries in a round, made in shards.

        `names`, the shards, are the unnamed value of a task of this level, as a condition is.
        """
        with dsl.ParallelFor(items=names, name="drafts", parallelism=self._parallel) as shard:
            drafted = self._stage(draft, "draft", config, turn=turn, shard=shard, **drafting)
            given = {"turn": turn, "drafts": drafted["drafts"]}
            refined = self._stage(refine, "refine", config, **given)["refinements"]
            given = {"turn": turn, "refinements": refined}
            scored = self._stage(score, "score", config, shard=shard, **given)
        parts = dsl.Collected(scored["feedback"])
        task = collect_feedback(parts=parts, params=params, number=number)
        return self._placed(task, "collect_feedback").outputs["feedback"]

    def _trials(self, turn: Any, params: Any, shards: Any, given: dict[str, Any]) -> dict[str, Any]:
        """The trials of all held-out queries and what comes beside them, made in shards."""
        names = self._placed(split(shards=shards), "split").output
        with dsl.ParallelFor(items=names, name="trials", parallelism=self._parallel) as shard:
            tried = self._stage(evaluate, "evaluate", turn=turn, shard=shard, **given)
        task = collect_trials(
            trial_parts=dsl.Collected(tried["trials"]),
            agreement_parts=dsl.Collected(tried["agreement"]),
            probe_parts=dsl.Collected(tried["probe"]),
            params=params,
        )
        outputs = self._placed(task, "collect_trials").outputs
        return {name: outputs[name] for name in ("trials", "agreement", "probe")}

    def _valid(
        self,
        kind: str,
        turn: Any,
        rows: Any,
        against: Any,
        config: dict[str, str] | None = None,
    ) -> Any:
        """The rows that meet the contract of their kind, and what was found."""
        stage = f"validate@{kind}"
        settings = (config or self._config)[stage]
        task = validate(rows=rows, against=against, turn=turn, stage=stage, config=settings)
        task.set_display_name(stage)
        return self._placed(task, "validate").outputs

    def _decide(self, name: str, deciding: dict[str, Any], told: dict[str, Any]) -> None:
        """Registers the challenger, and writes the page of the turn."""
        task = register(**deciding, config=self._config["register"])
        task.set_display_name(name)
        decision = self._placed(task, "register").outputs["decision"]
        self._placed(page(**told, decision=decision), "page")

    def _stage(
        self, component: Any, name: str, config: dict[str, str] | None = None, **given: Any
    ) -> Any:
        settings = (config or self._config)[name]
        return self._placed(component(**given, config=settings), name).outputs

    def _placed(self, task: Any, name: str) -> Any:
        return place(task, name, self._profile)

    @property
    def _parallel(self) -> int | None:
        return self._profile.parallel
