"""The model card of an exported version."""

import pytest
import yaml

from cowest.report.card import About, head


@pytest.mark.parametrize(
    ("base", "named"), [("org/base-1b", "org/base-1b"), ("/home/me/models/base", None)]
)
def test_the_head_names_a_base_of_the_hub_and_no_folder_of_this_machine(
    base: str, named: str | None
) -> None:
    written = head(About(name="v", base=base, licence="Apache-2.0", tokens=20, merged=False))
    values = yaml.safe_load(written.strip("-\n"))
    assert values.get("base_model") == named
    assert values["license"] == "apache-2.0"
    assert "/home" not in written
