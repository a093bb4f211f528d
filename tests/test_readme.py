"""The README's shell and Python blocks are executed word for word, in a folder as a stranger would have it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def block(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"expected one {language} block, found {len(found)}"
    return found[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with my-videos in it: 32 videos in two sub-folders."""
    from unreel.data.synthetic import ActionWorld

    folder = tmp_path_factory.mktemp("home")
    ActionWorld(5, 32, 1, size_px=32, num_frames=16, audio_rate_hz=0).write(folder / "world")
    for number, video in enumerate(sorted((folder / "world" / "train").glob("*.mp4"))):
        target = folder / "my-videos" / ("swing", "spin")[number % 2] / f"{number // 2}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(video, target)
    shutil.rmtree(folder / "world")
    return folder


def run(arguments: list[str], home: Path) -> str:
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "UNREEL_CACHE": str(home / "cache"),
    }
    done = subprocess.run(arguments, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_shell_block_runs_word_for_word(home: Path) -> None:
    out = run(["bash", "-euc", block("sh")], home)
    assert "ready" in out
    assert "Nothing was trained or written." in out
    assert (home / "runs" / "first" / "report.html").stat().st_size > 10_000
    assert (home / "vectors.parquet").exists()
    assert "hit@1" in out


@pytest.mark.slow
def test_the_python_block_runs_word_for_word(home: Path) -> None:
    out = run([sys.executable, "-c", block("python")], home)
    assert "(32, 192)" in out
    assert "chance" in out


def test_what_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), target
    from unreel.recipes import list_recipes

    assert set(re.findall(r"`(cvrl_\w+)`", text)) <= set(list_recipes())
