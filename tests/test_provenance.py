"""A certificate says with what it was made: in JSON, in the table, in the page."""

import datetime
import importlib.metadata
import json
import subprocess

import jax
import jaxlib

import jaxmodels
from jaxmodels.parity import Certificate, provenance, report


def test_versions_commit_date_and_machine():
    made = json.loads(json.dumps(provenance.provenance()))
    versions = made["versions"]
    assert set(versions) == {"python", *provenance.PACKAGES, "jaxmodels"}
    assert versions["jax"] == jax.__version__ and versions["jaxlib"] == jaxlib.__version__
    assert versions["torch"] == importlib.metadata.version("torch")
    assert versions["jaxmodels"] == jaxmodels.__version__
    date = datetime.datetime.fromisoformat(made["date"])
    assert date.utcoffset() == datetime.timedelta(0)
    assert abs((datetime.datetime.now(datetime.UTC) - date).total_seconds()) < 60
    machine = made["machine"]
    assert machine["cpu"] and machine["cores"] >= 1 and machine["platform"]
    assert jax.devices()[0].device_kind in machine["devices"]


def test_the_commit_is_that_of_the_checkout_alone(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert provenance.commit(tmp_path) is None
    git("init", "--quiet")
    assert provenance.commit(tmp_path) is None
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--message=one")
    head = git("rev-parse", "HEAD")
    assert provenance.commit(tmp_path) == head and len(head) == 40
    (tmp_path / "file").write_text("2")
    assert provenance.commit(tmp_path) == f"{head} + changes"
    (tmp_path / "installed").mkdir()
    assert provenance.commit(tmp_path / "installed") is None


def test_certificates_show_it():
    made = provenance.provenance() | {"commit": "0123456789abcdef"}
    result = Certificate("mlp", made=made, norms={})
    assert result.to_json()["made"] == made
    for text in (report.summary(result), report.page([result])):
        assert (
            "commit 0123456789abcdef" in text and made["date"] in text and jax.__version__ in text
        )
    rows = [
        result.to_json(),
        result.to_json() | {"made": made | {"date": f"{made['date'][:10]}T00:00:00+00:00"}},
    ]
    table = report.table(rows)
    assert table.count("commit 0123456789abcdef") == 1, (
        "what was made on one day with the same is said once"
    )
    old = result.to_json()
    del old["made"]  # written by an older version
    assert "Made" not in report.table([old])
