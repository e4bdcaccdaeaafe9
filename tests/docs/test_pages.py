"""Every code block of the documentation and the README is run; the examples for clusters parsed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    text = page.read_text(encoding="utf-8")
    return [
        (match[2], re.sub(f"^{match[1]}", "", match[3], flags=re.M))
        for match in BLOCK.finditer(text)
    ]


# What a page is about may need an extra.
NEEDS = {"federated": "flwr", "tune": "keras_tuner"}
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if blocks(page)]
KINDS = {"python", "bash", "text", "yaml", "slurm"}


def test_there_are_pages_and_all_kinds_of_blocks_are_known():
    assert len(PAGES) >= 9
    for page in PAGES:
        kinds = {kind for kind, _ in blocks(page)}
        assert kinds <= KINDS, page
        assert page.read_text(encoding="utf-8").count("```") == 2 * len(blocks(page)), page


# What the command `keras-dynhp` is, in the folder of the one who writes it.
COMMAND = """
import os, sys
os.chdir(sys.argv.pop(1))
from keras_dynhp.cli import run
run()
"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page, tmp_path, monkeypatch, run_alone):
    """In their order, in one namespace and one folder for each page, as a reader would."""
    if page.stem in NEEDS:
        pytest.importorskip(NEEDS[page.stem])
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for kind, code in blocks(page):
        if kind == "python":
            exec(compile(code, f"{page.name}", "exec"), namespace)
        elif kind == "bash":
            for line in code.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "keras-dynhp"
                run_alone(COMMAND, tmp_path, *arguments)


def test_readme(tmp_path, monkeypatch):
    """Its program runs on the reader's own model and data; its commands and links are there."""
    from sklearn.datasets import load_digits

    monkeypatch.chdir(tmp_path)
    x, y = load_digits(return_X_y=True)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(200, "relu"),
            keras.layers.Dense(100, "relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    namespace = {"model": model, "x": x[:500].astype("float32"), "y": y[:500]}
    readme = ROOT / "README.md"
    found = blocks(readme)
    assert readme.read_text(encoding="utf-8").count("```") == 2 * len(found)
    assert {kind for kind, _ in found} <= {"python", ""}
    full = model.count_params()
    for kind, code in found:
        if kind == "python":
            exec(compile(code, "README.md", "exec"), namespace)
        for target in re.findall(r"^make (\S+)", code, re.MULTILINE):
            subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
    assert model.count_params() < full
    for link in re.findall(r"\]\(([^)#]+)", readme.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_the_site_can_be_built(tmp_path):
    pytest.importorskip("mkdocs", reason='needs the extra "docs"')
    pytest.importorskip("mkdocstrings", reason='needs the extra "docs"')
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in DOCS.rglob("*.md"):
        assert (tmp_path / page.relative_to(DOCS).with_suffix(".html")).exists()
    reference = (tmp_path / "api.html").read_text(encoding="utf-8")
    assert "the most training memory" in reference  # from a docstring
    assert "&gt;&gt;&gt;" not in re.sub(r"<pre.*?</pre>", "", reference, flags=re.DOTALL)


def test_slurm_example():
    script = ROOT / "examples" / "tuning" / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    options = re.findall(r"^#SBATCH (--[a-z-]+)(?:=\S+)?$", script.read_text(), re.MULTILINE)
    assert len(options) == script.read_text().count("#SBATCH") >= 5
    # Options after the first command are not read by sbatch.
    assert script.read_text().rindex("#SBATCH") < script.read_text().index("set -euo")


def test_kubernetes_example():
    yaml = pytest.importorskip("yaml")
    documents = list(yaml.safe_load_all((ROOT / "examples/tuning/kubernetes.yaml").read_text()))
    found = {}
    for document in documents:
        assert {"apiVersion", "kind", "metadata", "spec"} <= set(document)
        found.setdefault(document["kind"], []).append(document)
    chief, workers = (job["spec"] for job in found["Job"])
    port = str(found["Service"][0]["spec"]["ports"][0]["port"])
    for job in (chief, workers):
        pod = job["template"]["spec"]
        assert pod["restartPolicy"] == "OnFailure"
        (container,) = pod["containers"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environment["KERASTUNER_ORACLE_PORT"] == port
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        claims = {claim["metadata"]["name"] for claim in found["PersistentVolumeClaim"]}
        assert {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]} <= claims
    labels = chief["template"]["metadata"]["labels"]
    assert found["Service"][0]["spec"]["selector"].items() <= labels.items()
    assert workers["completionMode"] == "Indexed"  # or a restarted worker would lose its name


def test_examples_are_in_the_guide():
    guide = (DOCS / "guides" / "tune.md").read_text(encoding="utf-8")
    for path in re.findall(r'--8<-- "(.+?)"', guide):
        assert (ROOT / path).exists()
