"""Exit codes and messages, as a stranger meets them."""

import errno
import json
from pathlib import Path

import pytest

from unreel.cli import main as entry
from unreel.cli.main import fold_overrides, main
from unreel.cli.overrides import split_overrides, to_sections
from unreel.core.errors import DataError, UsageError
from unreel.core.text import table
from unreel.methods import list_methods
from unreel.recipes.build import list_all
from unreel.recipes.schema import settings_schema


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pretran"], 'Did you mean "pretrain"?'),
        (["data", "synt"], 'Did you mean "synth"?'),
        (["pretrain", "x", "--ot", "y"], "Did you mean --out?"),
        (["pretrain"], "unreel: pretrain needs DATA: A folder"),
        (["embed", "x", "y"], "unreel: embed needs --out: The file to write"),
        (["embed", "x", "y", "--ot", "z.npz"], "unreel: embed needs --out (not --ot): The file to write"),
        (["embed", "x", "y", "--out"], "unreel: --out needs a value\n"),
        (["data", "annotate"], "unreel: data annotate needs NAME: What to compute"),
        (["evaluate", "a", "b", "--protocol", "knm"], "Choose from"),
        (["evaluate", "a", "b", "--out", "scores.txt"], "--out scores.txt: scores are written as .json"),
        (["models", "r3d_5"], "unknown encoder 'r3d_5'; did you mean 'r3d_50'"),
        (["report", "nowhere"], "nowhere: there is no such run folder"),
        (["demo", "--full", "--tiny"], "--full and --tiny exclude each other"),
        (["data", "index", ".", "--out", "table.txt"], "a manifest ends in .csv or .parquet"),
        (
            ["data", "synth", "--out", "w", "--world.camra", "1"],
            "unknown setting world.camra; did you mean world.camera?",
        ),
        (["data", "synth", "--out", "w", "--world.camera"], "--world.camera needs a value"),
        (["data", "synth", "--out", "w", "--word.camera", "1"], "unknown section 'word'; did you mean 'world'?"),
        (["data", "synth", "--out", "w", "--set", "camera=1"], "expected SECTION.KEY=VALUE"),
        (["data", "synth", "--out", "w", "--world.size_px", "31"], "size_px must be even"),
        (["doctor", "nowhere"], "nowhere: there is no such folder"),
        (["pretrain", "x", "--out", "y", "--epoch", "3"], "unknown setting --epoch; did you mean --train.epochs?"),
        (["pretrain", "x", "--dryrun"], "Did you mean --dry-run?"),
        (
            ["pretrain", "x", "--out", "y", "--name", "tcgl"],
            "--name is a setting of method and encoder and ",
        ),
        (
            ["pretrain", "x", "--out", "y", "--epochs", "many"],
            "or none > 0 epochs, got 'many'",
        ),
        (["data", "synth", "--out", "w", "--camera", "1"], "Unknown option: --camera"),
        (["pretrain", "a", "b", "--out", "y"], "unreel pretrain takes DATA, and b is too much; for several folders"),
        (["cluster", "a", "b", "d", "e"], "unreel cluster takes ENCODER DATA, and d e is too much"),
        (["demo", "a"], "unreel demo takes options only, and a is too much\n"),
    ],
)
def test_a_wrong_call_exits_with_2_and_says_what_is_right(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("unreel: ")
    assert expected in err
    assert "Traceback" not in err


def test_wrong_calls_point_to_the_help_of_their_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "try: unreel data synth --help" in call(capsys, "data", "synth", "--ouch", "1")[2]


def fail(error: BaseException):
    def app(*_: object, **__: object) -> int:
        raise error

    return app


def test_failed_work_exits_with_1_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = __import__("sys").modules["unreel.cli.main"]
    monkeypatch.setattr(module, "app", fail(DataError("a.csv:3: no such file b.mp4")))
    assert call(capsys, "--version") == (1, "", "unreel: a.csv:3: no such file b.mp4\n")
    code, _, err = call(capsys, "--debug")
    assert code == 1
    assert "Traceback" in err
    code, out, err = call(capsys, "--json")
    assert json.loads(out) == {"error": {"kind": "DataError", "message": "a.csv:3: no such file b.mp4", "exit_code": 1}}
    monkeypatch.setattr(module, "app", fail(ZeroDivisionError("division by zero")))
    code, _, err = call(capsys, "--version")
    assert code == 1
    assert err.startswith("unreel: ZeroDivisionError: division by zero\n")
    assert "--debug shows where" in err
    monkeypatch.setattr(module, "app", fail(KeyboardInterrupt()))
    assert call(capsys, "--version") == (130, "", "unreel: stopped by SIGINT\n")
    monkeypatch.setattr(module, "app", fail(OSError(errno.ENOSPC, "No space left on device", "a.csv")))
    assert call(capsys, "--version")[::2] == (
        1, "unreel: a.csv cannot be written: no space left on device; free some space there, or choose another place\n"
    )  # fmt: skip


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    from unreel import __version__

    assert call(capsys, "--version") == (0, __version__ + "\n", "")
    code, out, _ = call(capsys)
    assert code == 0
    assert "Start here" in out
    assert entry is main


def test_overrides_are_folded_into_set() -> None:
    assert fold_overrides(["x", "--a.b", "1", "--out", "o", "--a.c-d=e=f", "--", "--a.b"]) == [
        *("x", "--set", "a.b=1", "--out", "o", "--set", "a.c_d=e=f", "--", "--a.b"),
    ]
    assert fold_overrides(["--a.b", "-1"]) == ["--set", "a.b=-1"]
    assert fold_overrides(["./--a.b", "a.b"]) == ["./--a.b", "a.b"]
    with pytest.raises(UsageError, match=r"--a\.b needs a value"):
        fold_overrides(["--a.b", "--c"])
    assert to_sections(["a.b=1", "a.c=[1, 2]", "d.e=x=y", "a.b=2"]) == {"a": {"b": 2, "c": [1, 2]}, "d": {"e": "x=y"}}


def test_settings_by_their_name_alone_as_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    """One table serves ``unreel.pretrain(epochs=3)`` and ``--epochs 3``; an option of the command stays what it is."""
    assert fold_overrides(["pretrain", "x", "--epochs", "3", "--batch-size=8", "--out", "o", "--quiet"]) == [
        *("pretrain", "x", "--set", "epochs=3", "--set", "batch_size=8", "--out", "o", "--quiet")
    ]
    assert fold_overrides(["embed", "x", "--epochs", "3"]) == ["embed", "x", "--epochs", "3"]
    assert split_overrides(["a.b=1.5", "epochs=3", "lr=1e-3"]) == ({"a": {"b": 1.5}}, {"epochs": 3, "lr": 1e-3})
    typed = ["--epochs", "3", "--batch-size", "8", "--lr", "0.02", "--temperature", "0.3", "--views.size", "40"]
    assert main(["pretrain", "nowhere", *typed, "--list-settings", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["settings"]
    found = {row["setting"]: row["value"] for row in rows if row["origin"] == "command line"}
    assert found == {
        **{"train.epochs": "3.0", "train.batch_size": "8", "optimizer.lr": "0.02", "method.temperature": "0.3"},
        "views.size": "40",
    }
    call = {"epochs": 3, "batch_size": 8, "lr": 0.02, "temperature": 0.3, "views.size": 40}
    from_python = list_all("cvrl_small", call=call)
    assert {r["setting"]: r["value"] for r in from_python} == {r["setting"]: r["value"] for r in rows}


def test_no_setting_s_name_looks_like_a_mistyped_option() -> None:
    """An option that is nearly one of the command's own is taken for a slip, so no setting may look like one."""
    chosen = {"encoder": "r3d_small"}
    names = {
        name
        for method in list_methods()
        for section, part in settings_schema(method).items()
        for name in part.names(chosen.get(section, part.default_name))
    }
    names -= {"object_crop", "bg_mixup", "label", "split"}  # options themselves
    assert {"epochs", "steps", "batch_size", "seed", "lr", "temperature"} <= names
    shy = {name for name in names if fold_overrides(["pretrain", f"--{name.replace('_', '-')}=1"])[1] != "--set"}
    assert shy <= {"out", "version"}  # not a recipe's; and --version is everywhere: write --method.version


def test_table() -> None:
    assert table(("name", "n"), [("a", 1), ("bcdef", 22)]) == "name    n\na       1\nbcdef  22"
    assert table(("name", "n"), []) == "name  n"


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "models", "r3d_5*", "--json")
    assert code == 0
    (model,) = json.loads(out)["encoders"]
    assert (model["name"], model["parameters"], model["features"]) == ("r3d_50", 31_672_128, 2048)
    assert "31,672,128" in call(capsys, "models", "r3d_50")[1]


def test_doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = call(capsys, "doctor", str(tmp_path), "--json")
    found = json.loads(out)
    assert (code, found["ready"]) == (0, True)
    assert [c["name"] for c in found["checks"]] == [
        *("python", "torch", "kernels", "cuda", "codecs", "cores", "memory", "disk", "writing"),
    ]


def test_doctor_turns_every_failure_into_a_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from unreel.cli import doctor

    def broken() -> doctor.Check:
        raise OSError("libavcodec is missing")

    monkeypatch.setattr(doctor, "_codecs", broken)
    code, out, _ = call(capsys, "doctor", str(tmp_path))
    assert code == 1
    assert "fail  codecs   OSError: libavcodec is missing" in out
    assert "→ reinstall PyAV" in out
    assert out.endswith("not ready: see the lines that say fail\n")


def test_synth_writes_a_world(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    world = tmp_path / "world"
    code, out, _ = call(
        capsys,
        *("data", "synth", "--out", str(world), "--train", "2", "--test", "1", "--workers", "0", "--json"),
        *("--world.size-px", "32", "--world.num_frames", "4", "--world.audio_rate_hz=0"),
    )
    assert code == 0
    assert json.loads(out) == {"manifest": str(world / "manifest.csv"), "videos": 3, "train": 2, "test": 1}
    assert len(list(world.rglob("*.mp4"))) == 3


def test_pretrain_takes_the_recipe_of_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    def origin_of(*arguments: str) -> dict[str, str]:
        assert main(["pretrain", "nowhere", *arguments, "--list-settings", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["settings"]
        return {row["setting"]: f"{row['value']} ({row['origin']})" for row in rows}

    assert origin_of()["views.size"] == "56 (recipe cvrl_small)"
    vcop = origin_of("--method", "vcop", "--size", "32")
    assert vcop["clips.num_snippets"] == "3 (recipe vcop_small)"
    assert vcop["views.size"] == "32 (command line)"
    other = origin_of("--method", "vcop", "--recipe", "pace_small")
    assert other["method.name"] == "vcop (command line)"
    assert other[next(k for k in other if k.endswith(".clip_frames"))] == "16 (default)"  # nothing is taken over
    assert main(["pretrain", "nowhere", "--method", "vcpo", "--dry-run"]) == 2
    assert "did you mean 'vcp' or 'vcop'" in capsys.readouterr().err
