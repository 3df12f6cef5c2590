"""Export a version for plain transformers and PEFT: weights, tokenizer, prompts and a model card.

cowest export --to FOLDER               the champion's adapter
cowest export --to FOLDER --merged      the base with the adapter merged into it
cowest export --to FOLDER --version 3   a version of the registry

Nothing that CoWest brings is needed to load the folder; its README.md says how.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cowest import environment, version
from cowest.commands import add_params
from cowest.config import enter, load, parse, section
from cowest.errors import ConfigError, InputError, RegistryError
from cowest.io import replacing_folder, write_text
from cowest.lineage import data_of
from cowest.models import audit, hf
from cowest.models.hf import HFConfig
from cowest.online.live import ServeConfig
from cowest.records import Decision, EvalReport
from cowest.registry.log import champion_of
from cowest.registry.mlflow import RegistryConfig
from cowest.registry.tracking import MlflowTracker
from cowest.report import card, licence
from cowest.version import Version


def main(argv: list[str]) -> int:
    """Writes the folder, whole or not at all, and prints its path.

    Raises CoWestError, before anything is loaded, for a folder that holds something, a version
    that is not there, and a policy that is no local model.
    """
    parser = argparse.ArgumentParser(
        prog="cowest export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--version", type=int, metavar="N", help="a version (the champion)")
    parser.add_argument(
        "--merged", action="store_true", help="a whole model: the adapter merged into its base"
    )
    add_params(parser, "where registry and policy are said to be (serve)")
    given = parser.parse_args(argv)
    to = given.to.absolute()
    params = load(given.params)
    config = parse(
        ServeConfig, section(params, "serve", str(given.params)), f"{given.params}: serve"
    )
    if not isinstance(config.policy, HFConfig):
        raise ConfigError(
            f"{given.params}: serve.policy is {config.policy.provider}, which has no weights here: "
            "export needs a local model (provider: hf)"
        )
    enter(given.params)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} is there already and is not empty: name a new folder")
    environment.settle()
    log = _log(config.registry)
    chosen = _choose(log, given.version)
    report = _report(config.registry, log, chosen)
    _export(config, chosen, log, report, to, given.merged)
    print(f"version {chosen.version}: {to}")
    return 0


def _log(config: RegistryConfig) -> Sequence[Decision]:
    """The decisions. To look must not make a registry, as `open` would."""
    if not config.begun():
        raise RegistryError("no turn was run here yet, so there is no version: run `cowest turn`")
    return config.open().log()


def _choose(log: Sequence[Decision], number: int | None) -> Decision:
    """The decision on the version asked for, or on the champion. Raises RegistryError."""
    wanted = champion_of(log) if number is None else number
    if wanted is None:
        raise RegistryError("no version is champion yet: name one with --version (`cowest status`)")
    for decision in log:
        if decision.version == wanted:
            return decision
    raise RegistryError(f"the registry has no version {wanted}: see `cowest status`")


def _report(config: RegistryConfig, log: Sequence[Decision], chosen: Decision) -> EvalReport | None:
    """The evaluation of a version, as its run keeps it; None if no run has it."""
    tracker = MlflowTracker(config.runs())
    # A version that was rolled back to has the files of an earlier one, whose turn judged them.
    same = [one for one in log if one.digest == chosen.digest]
    for one in (chosen, *same):
        found = tracker.report(one.turn, one.tags.get("report"))
        if found is not None:
            return found
    return None


def _export(
    config: ServeConfig,
    chosen: Decision,
    log: Sequence[Decision],
    report: EvalReport | None,
    to: Path,
    merged: bool,
) -> None:
    policy = config.policy
    assert isinstance(policy, HFConfig), policy
    with tempfile.TemporaryDirectory(prefix="cowest.") as temporary:
        fetched = Path(temporary) / "version"
        config.registry.open().fetch(chosen.version, fetched)
        trained = version.expect(fetched)
        with replacing_folder(to) as folder:
            if merged:
                _write_merged(policy, fetched / "adapter", folder)
            else:
                _write_adapter(policy, fetched / "adapter", folder)
            prompts = json.dumps(trained.prompts.model_dump(mode="json"), indent=2)
            write_text(folder / "prompts.json", prompts + "\n")
            _write_card(config, chosen, log, trained, report, folder, merged)


def _write_adapter(policy: HFConfig, adapter: Path, folder: Path) -> None:
    """Copies the adapter, names its base as PEFT looks for it, and adds the tokenizer."""
    base = policy.folder()
    # Checked here since nothing is loaded: who loads the folder would run a pickle or code in it,
    # and an adapter of another base would answer nonsense.
    audit.audit_adapter(adapter)
    hf.same_base(adapter, policy.base_name(base))
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    place = folder / "adapter_config.json"
    settings = json.loads(place.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = card.base_of(policy.model, base)
    write_text(place, json.dumps(settings, indent=2, sort_keys=True) + "\n")
    hf.load_tokenizer(policy, base).save_pretrained(folder)


def _write_merged(policy: HFConfig, adapter: Path, folder: Path) -> None:
    """Writes the model that answers, in the number format in which it answers."""
    with policy.open(adapter=adapter) as model:
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)


def _write_card(
    config: ServeConfig,
    chosen: Decision,
    log: Sequence[Decision],
    trained: Version,
    report: EvalReport | None,
    folder: Path,
    merged: bool,
) -> None:
    policy = config.policy
    assert isinstance(policy, HFConfig), policy
    base = policy.folder()
    about = card.About(
        name=f"{config.registry.name}, version {chosen.version}",
        base=card.base_of(policy.model, base),
        licence=licence.of(policy.model, base),
        tokens=config.drafting.max_tokens,
        merged=merged,
    )
    data = data_of(chosen.tags)
    write_text(folder / "README.md", card.write(about, chosen, log, trained, report, data))
