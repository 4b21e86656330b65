"""What pip installs: the wheel alone does the main job, offline; sdist and wheel hold what they should; versions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITH_THEIR_OWN = {"pydantic"}
"""Installed with their dependencies: pydantic takes one version of pydantic-core and no other."""
NOT_TRIED_OLD = {"torch"}
"""Installing an old torch takes gigabytes; its lower bound is what the authors of diffusers ask for."""


def run(*command: object, cwd: Path, **changes: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**environment, **changes}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> dict[str, Path]:
    """The sdist of the files that git knows, and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("no git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
    run(sys.executable, "-c", build, "build_sdist", folder, cwd=source)
    sdist = next(folder.glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        # Python has filters from 3.11.4 on.
        archive.extractall(folder / "unpacked", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    run(sys.executable, "-c", build, "build_wheel", folder, cwd=next((folder / "unpacked").iterdir()))
    return {"sdist": sdist, "wheel": next(folder.glob("*.whl"))}


def test_the_wheel_holds_the_package_and_nothing_else(distributions):
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(next(name for name in names if name.endswith("METADATA"))).decode()
    package = {name for name in names if not re.match(r"sdic_plugin-[^/]+\.dist-info/", name)}
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "sdic_plugin").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert package == ours
    assert {"sdic_plugin/py.typed", "sdic_plugin/bundled/cats64/model_index.json"} <= package
    assert {"sdic_plugin/hub/templates/model.md", "sdic_plugin/hub/templates/edits.md"} <= package
    assert "Requires-Python: >=3.11" in metadata and "License-Expression: Apache-2.0 AND CC-BY-4.0" in metadata
    assert {"sdic_plugin/bundled/faces128/NOTICE.md", "sdic_plugin/images/yunet/NOTICE.md"} <= package


def test_the_sdist_holds_what_is_built_from_it(distributions):
    with tarfile.open(distributions["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "sdic_plugin/commands/cli.py", "sdic_plugin/py.typed"} <= names
    assert not [name for name in names if name.endswith((".pyc", ".tmp")) or name.startswith((".venv", ".git/"))]


def test_the_wheel_does_the_main_job_offline(distributions, tmp_path):
    """In a new environment: the wheel, and the dependencies of this one by a path file."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip()
    )
    target = ["--target", site, "--no-deps", "--no-index", "--quiet"]
    run(sys.executable, "-m", "pip", "install", *target, distributions["wheel"], cwd=tmp_path)
    # Where this environment has them, which may be another place than its own folder of packages.
    places = {Path(find_spec(name).origin).parents[1] for name in ("torch", "diffusers", "PIL", "numpy")}
    (site / "dependencies.pth").write_text("".join(f"{place}\n" for place in sorted(places)))
    offline = {"HF_HUB_OFFLINE": "1", "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    script = """import sdic_plugin
print(sdic_plugin.__file__)
from sdic_plugin.commands.cli import main
raise SystemExit(main())"""
    job = "edit --example chelsea --model cats64 --edit warmth=1.5 --paste-back difference --out out".split()
    where = run(python, "-c", script, *job, cwd=tmp_path, **offline).stdout.splitlines()[0]
    assert Path(where).is_relative_to(site)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"chelsea_sheet.png", "chelsea_warmth_+1.5.png", "chelsea_warmth_+1.5_pasted.png"} <= written
    assert "sdic = sdic_plugin.commands.cli:main" in next(site.glob("sdic_plugin-*/entry_points.txt")).read_text()


def lower_bounds() -> list[str]:
    """The dependencies at the oldest versions that pyproject.toml admits, torch excepted."""
    bounds = [re.match(r"([\w-]+)>=([\w.]+)", requirement).groups() for requirement in PROJECT["dependencies"]]
    return [f"{name}=={version}" for name, version in bounds if name not in NOT_TRIED_OLD]


def test_every_dependency_has_a_lower_bound():
    assert len(lower_bounds()) == len(PROJECT["dependencies"]) - len(NOT_TRIED_OLD)


@pytest.mark.slow
def test_the_oldest_dependencies_do(tmp_path):
    """Loading, inverting, editing and the Hub with the oldest versions; the suite itself runs with the newest."""
    target = tmp_path / "oldest"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target)]
    whole = [bound for bound in lower_bounds() if bound.split("==")[0] in WITH_THEIR_OWN]
    alone = [bound for bound in lower_bounds() if bound not in whole]
    for command in ([*pip, "--no-deps", *alone], [*pip, *whole]):
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode != 0:
            pytest.skip(f"pip cannot fetch them: {installed.stderr.strip().splitlines()[-1]}")
    files = ["pipeline/test_pipeline.py", "hub/test_hub.py", "edits/test_edits.py", "checkpoints/test_readers.py"]
    tests = [ROOT / "tests" / name for name in files]
    run(sys.executable, "-m", "pytest", "-q", "-x", *tests, cwd=ROOT, PYTHONPATH=f"{target}{os.pathsep}{ROOT}")
