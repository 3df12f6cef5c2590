"""Profiles: what they give a step, and what they refuse."""

from pathlib import Path

import pytest

from cowest import profiles
from cowest.errors import ConfigError
from cowest.profiles import Profile, Retry, Step

FIXED = "registry.example:5000/a/cowest-cpu:0123abcd"


def read(folder: Path, text: str) -> Profile:
    path = folder / "mine.yaml"
    path.write_text(text)
    return profiles.read(path)


def test_a_step_has_what_every_step_has_unless_it_says_otherwise(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
        every:
          memory: 4Gi
          cpu: "1"
          retry: {times: 2}
          secrets: {store: {address: COWEST_STORE}}
          tolerations: [{key: spot}]
        steps:
          draft:
            memory: 8Gi
            secrets: {models: {openai: OPENAI_API_KEY}}
            tolerations: []
            retry: null
        """,
    )
    draft, other = found.step("draft"), found.step("refine")
    assert (draft.memory, draft.cpu, draft.retry, draft.tolerations) == ("8Gi", "1", None, ())
    assert set(draft.secrets) == {"store", "models"}
    assert other == found.every
    assert other.retry == Retry(times=2)
    assert Profile().step("draft") == Step()


@pytest.mark.parametrize(
    "image", [FIXED, f"cowest@sha256:{'0' * 64}", "cowest:0.1.0-0123abc", f"a/b:{'f' * 40}"]
)
def test_an_image_that_stays_what_it_is_is_taken(image: str) -> None:
    assert Profile(image=image).image == image


@pytest.mark.parametrize(
    "image",
    ["cowest", "cowest:latest", "cowest:0.1.0", "registry:5000/cowest", "cowest@sha256:12", "a:b"],
)
def test_an_image_that_may_be_another_tomorrow_is_refused(image: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine.yaml: image: .*(by digest|a digest is sha256)"):
        read(tmp_path, f"image: {image}")


def test_an_image_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "steps: {sft: {image: '${COWEST_TRAIN_IMAGE}'}}"
    monkeypatch.delenv("COWEST_TRAIN_IMAGE", raising=False)
    with pytest.raises(ConfigError, match="steps: sft: image takes the image from COWEST_TRAIN_IM"):
        read(tmp_path, text)
    monkeypatch.setenv("COWEST_TRAIN_IMAGE", "x:latest")
    with pytest.raises(ConfigError, match=r"from COWEST_TRAIN_IMAGE: x:latest: .* by digest"):
        read(tmp_path, text)
    monkeypatch.setenv("COWEST_TRAIN_IMAGE", FIXED)
    assert read(tmp_path, text).step("sft").image == FIXED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shards: 0", "shards: Input should be greater than or equal to 1"),
        ("stepz: {}", "stepz: unknown setting"),
        ("steps: {drafts: {}}", "steps.drafts"),
        ("every: {memory: 4 GB}", "every.memory: '4 GB': an amount is written as 500m, 2 or 16Gi"),
        ("every: {timeout: 90 min}", "every.timeout: '90 min': a length of time is written as 30s"),
        ("every: {env: {MY_API_KEY: abc}}", "MY_API_KEY looks like a secret"),
        ("every: {secrets: {Store: {a: B}}}", "every.secrets.Store"),
        ("every: {accelerator: {count: 0}}", "every.accelerator.count"),
        # Argo reads a whole number, and retries nothing where it finds another.
        ("every: {retry: {times: 2, factor: 1.5}}", "every.retry.factor"),
        ("steps: {draft: {nproc: 2}}", "draft.nproc: only sft and dpo train"),
        ("every: {volumes: {a: {mount: scratch, size: 1Gi}}}", "every.volumes.a.mount"),
    ],
)
def test_a_slip_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_KEY", "openai_api_key", "MYSQL_PWD", "PGPASSWORD", "db_passwd", "SMTP_PASS",
        "GITHUB_PAT", "AZURE_STORAGE_SAS", "AZURE_CONNECTION_STRING", "hf_token",
        "AWS_SECRET_ACCESS_KEY", "VAULT_SECRET_ID", "GCP_CREDENTIALS", "ACCOUNTKEY",
    ],
)  # fmt: skip
def test_a_secret_is_known_by_the_name_of_its_variable(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name} looks like a secret"):
        read(tmp_path, f"every: {{env: {{{name}: abc123}}}}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TOKENIZERS_CACHE", "shared"),
        ("MAX_TOKENS", "4096"),
        ("CUDA_VISIBLE_DEVICES", "0"),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
        ("GIT_CONFIG_KEY_0", "http.https://git.example/.extraHeader"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token"),
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/keys/one.json"),
        ("BYPASS_CACHE", "shared"),
        ("S3_KMS_KEY", "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab"),
        ("SSL_KEY", "/certs/key"),
    ],
)
def test_a_plain_variable_is_taken(name: str, value: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"every: {{env: {{{name}: '{value}'}}}}").every.env == {name: value}


def test_a_key_that_begins_with_a_slash_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY looks like a secret"):
        key = "/UtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEYwJalr"
        read(tmp_path, f"every: {{env: {{AWS_SECRET_ACCESS_KEY: '{key}'}}}}")


TWO_DAYS = """
every: {retry: {times: 2, wait: 30s, factor: 2, within: 24h}, timeout: 8h}
steps: {dpo: {timeout: 48h}}
"""


def test_retries_have_the_time_that_their_tries_may_take(tmp_path: Path) -> None:
    """Argo ends a retry that runs when `within` is over."""
    with pytest.raises(ConfigError, match=r"preflight: retry.within is 24h.*3 tries of 8h.*25h"):
        read(tmp_path, TWO_DAYS)
    with pytest.raises(ConfigError, match=r"the step dpo: retry.within is 25h.*up to 145h"):
        read(tmp_path, TWO_DAYS.replace("24h", "25h"))
    assert read(tmp_path, TWO_DAYS.replace("24h", "145h")).step("dpo").retry is not None
    # Nothing is known of a step that has no timeout, and one without retries has none to end.
    read(tmp_path, "every: {retry: {times: 2, within: 1h}}")
    read(tmp_path, "every: {retry: {times: 0, within: 1h}, timeout: 8h}")
    assert Retry(times=2).within is None


def test_spans_are_seconds() -> None:
    assert [profiles.seconds(span) for span in ("30s", "90m", "12h")] == [30, 5400, 43200]
