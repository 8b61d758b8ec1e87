"""What users type and what they are told; the verbs run in this process."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from attar import cli, methods, pipeline, verbs
from attar.cli import main
from attar.core.errors import AttarError
from attar.core.interruption import Interrupted
from conftest import MINI

METHODS = sorted(path.stem for path in Path(methods.__path__[0]).glob("[!_]*.py"))


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a failing command says: exit code 2, one line, no traceback."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("attar: ")
    assert said.endswith((".", "?"))
    return said


@pytest.fixture
def folders(tmp_path: Path):
    """Makes a dataset of folders of small pictures."""

    def make(counts: dict[str, int]) -> str:
        draws = np.random.default_rng(0)
        for split in ("train", "val"):
            for name, count in counts.items():
                folder = tmp_path / "pictures" / split / name
                folder.mkdir(parents=True)
                for place in range(count):
                    pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{place}.png")
        return str(tmp_path / "pictures")

    return make


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rum"], "no verb named 'rum'; did you mean run"),
        (["run"], "needs a recipe"),
        (["run", "digits"], "needs a folder for its results; add --out runs/digits"),
        (["run", "digit", "--out", "OUT"], "no recipe or folder named 'digit'; did you mean digits"),
        (["run", "./nowhere", "--out", "OUT"], "no folder or recipe file ./nowhere; check the path"),
        (["plan", "/nowhere/at/all"], "no folder or recipe file /nowhere/at/all; check the path"),
        (["run", "digits", "--out", "OUT", "--ip", "2"], r"did you mean --ipc\?$"),
        (["run", "digits", "--out", "OUT", "--data.flip", "false"], "did you mean --squeeze.views.flip or"),
        (["run", "absent.yaml", "--out", "OUT"], "absent.yaml cannot be read"),
        (["run", "digits", "--out", "OUT", "--method", "cdaa"], "no method named 'cdaa'; did you mean cda"),
        (["run", "digits", "--out", "OUT", "--protocol", "tini"], "no protocol named 'tini'; did you mean tiny"),
        (["run", "digits", "--out", "OUT", "--recover.iteration", "3"], "did you mean --recover.iterations"),
        (["run", "digits", "--out", "OUT", "--recover.ipc", "0"], "--recover.ipc must be greater than or equal to 1"),
        (["run", "digits", "--out", "OUT", "--recover.ipc", "few"], "--recover.ipc must be a whole number, not 'few'"),
        (["run", "digits", "--out", "OUT", "--recover.ipc-start", "10"], "must be below ipc"),
        (["run", "digits", "--out", "OUT", "--recover.curriculum", "cubic"], "'cubic'"),
        (["run", "digits", "--out", "OUT", "--data.source", "/no/such"], "no folder /no/such"),
        (["run", "digits", "--out", "OUT", "--data.source", "cifar10", "--data.root", "/no"], "/no"),
        (["run", "digits", "--out", "OUT", "--squeeze.architecture", "alexnet"], "alexnet cannot take 8 x 8 images"),
        (["run", "digits", "--out", "OUT", "--data.size", "0"], "--data.size"),
        (["run", "digits", "--out", "OUT", "--data.num-classes", "1"], "--data.num-classes must be"),
        (["run", "digits", "--out", "OUT", "--squeeze.architecture", "resnet81"], "no .*named 'resnet81'"),
        (["run", "digits", "--out", "OUT", "--squeeze.weights", "/no/such.pth"], "/no/such.pth"),
        (["run", "digits", "--out", "OUT", "--method", "random", "--recover.ipc", "500"], "--recover.ipc 139 or less"),
        (["run", "digits", "--out", "OUT", "--method", "kcentre", "--recover.ipc", "500"], "--recover.ipc 139 or less"),
        (["run", "digits", "--out", "OUT", "--evaluate.rows", "herding"], "--evaluate.rows"),
        (["run", "digits", "--out", "OUT", "--evaluate.students", "convnet9"], "no .*named 'convnet9'"),
        (["run", "digits", "--out", "OUT", "--evaluate.students", "convnet3", "convnet3"], "convnet3' is listed twice"),
        (["run", "digits", "--out", "OUT", "--evaluate.rows", "full", "distilled", "full"], "'full' is listed twice"),
        (["run", "digits", "--out", "OUT", "--evaluate.rows"], "list at least one"),
        (["run", "digits", "--out", "OUT", "--relabel.mix.alpha", "0"], "--relabel.mix.alpha must be greater than 0"),
        (
            ["run", "digits", "--out", "OUT", "--relabel.views.min-scale", "2"],
            "--relabel.views.min-scale must be less than or equal to 1",
        ),
        (["run", "digits", "--out", "OUT", "--relabel.views.padding", "-1"], "--relabel.views.padding"),
        (["run", "digits", "--out", "OUT", "--relabel.imported", "/nope"], "/nope holds no labels"),
        (["run", "digits", "--out", "OUT", "--squeeze.members", "{}", "{weights: nope.pt}"], "nope.pt"),
        (["run", "digits", "--out", "OUT", "--squeeze.members", "convnet3"], "--squeeze.members takes a mapping"),
        (["run", "digits", "--out", "OUT", "--squeeze.members", "{epochs: 1}"], "there is no setting named 'epochs'"),
        (
            ["run", "digits", "--out", "OUT", "--squeeze.members", "{training: {epochs: 0}}"],
            "members.0.training.epochs must be greater than or equal to 1, not 0",
        ),
        (["run", "digits", "--out", "OUT", "--method", "rded", "--recover.ipc", "200"], "--recover.ipc 139 or less"),
        (["show", "digits", "--plan", "--method", "rded", "--recover.ipc", "200"], "--recover.ipc 139 or less"),
        (["run", "digits", "--out", "OUT", "--method", "fadrm", "--recover.ipc", "200"], "--recover.ipc 139 or less"),
        (
            ["run", "digits", "--out", "OUT", "--method", "cim", "--recover.ipc", "50"],
            r"200 are needed \(4 for each image\); use --recover.ipc 34 or less",
        ),
        (
            ["show", "digits", "--method", "rded", "--recover.ipc", "400"],
            r"patch_pool \(300\) is smaller than .* \(400\)",
        ),
        (["show", "digits", "--method", "cim", "--recover.ipc", "400"], r"pool \(300\) is smaller than .* \(1600\)"),
        (
            ["show", "digits", "--method", "fadrm", "--recover.iterations", "2"],
            "--recover: block_sizes has 4 blocks for 2 iterations; raise iterations",
        ),
        (
            ["show", "digits", "--plan", "--data.source", "/no", "--method", "fadrm", "--recover.members", "3"],
            "--recover.members names teacher 3, but the run has only teacher 0; add it to --squeeze.members",
        ),
        (
            ["show", "digits", "--plan", "--data.source", "/no/such", "--relabel.committee.members", "1"],
            "--relabel.committee.members names teacher 1, but the run has only teacher 0",
        ),
        (["show", "digits", "--helpp"], r"no setting named '--helpp'; did you mean --help\?$"),
        (["--helpp"], r"did you mean --help\?$"),
        (["run", "digits", "--out", "OUT", "--relabel.committee.members", "1"], "names teacher 1, but the run has"),
        (["run", "digits", "--out", "OUT", "--images", "/nope"], "no folder of images /nope"),
        (["show", "digits", "--plan", "--relabel.views.patch-shuffle", "3"], "do not divide into 3 patches"),
        (["run", "digits", "--out", "OUT", "--execution.device", "tpu"], "no device 'tpu'"),
        (["evaluate", "digits", "--out", "OUT"], "recover is not finished; run 'attar recover'"),
        (["relabel", "digits", "--out", "OUT"], "run 'attar recover'"),
        (["recover", "digits", "--out", "OUT"], "run 'attar squeeze'"),
        (["report", "OUT"], "OUT/evaluate is not finished"),
        (["list", "things"], "one of recipes, methods"),
        (["list", "models", "resnet", "vit"], "leave out 'vit'"),
        (["report"], "'attar report': the following arguments are required: FOLDER; see 'attar report --help'"),
        (["export", "fkd"], "'attar export': the following arguments are required: FOLDER"),
        (
            ["compare", "hf:cifar10", "--methods", "dm", "--budgets", "1MB", "--out", "OUT"],
            "hf:cifar10 is a dataset, not",
        ),
        (["run", "digits", "--out", "OUT", "--budget", "1MB"], "'digits' is a recipe; name a folder or hf:ORG/NAME"),
        (["run", "digits", "--out", "OUT", "--ipc", "few"], "--recover.ipc must be a whole number, not 'few'"),
        (["show", "digits", "--seed", "-1"], "--seed"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments, sentence, tmp_path, capsys):
    out = tmp_path / "out"
    said = told(capsys, *[argument.replace("OUT", str(out)) for argument in arguments])
    assert re.search(sentence.replace("OUT", str(out)), said), said
    assert not out.exists()


def test_bad_keys_in_a_file_are_named(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("method: cda\nrecover: {iteration: 5}\n")
    assert f"{path} has the unknown key 'recover.iteration'" in told(capsys, "show", str(path))
    path.write_text("recover: [\n")
    assert f"{path} is not valid YAML" in told(capsys, "show", str(path))
    path.write_text("recover: {ipc: many}\n")
    assert "recover.ipc" in told(capsys, "show", str(path))


def test_a_network_without_batchnorm_is_refused_where_batchnorm_is_observed(tmp_path, capsys):
    arguments = ["run", "digits", "--out", str(tmp_path / "out"), "--data.size", "32"]
    arguments += ["--squeeze.architecture", "timm/vit_tiny_patch16_224", "--recover.observe", "batchnorm"]
    assert "has no BatchNorm layers with running statistics, which --recover" in told(capsys, *arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_no_recipe(mini_run, tmp_path, capsys):
    out = tmp_path / "out"
    said = told(capsys, "compare", str(tmp_path), "--methods", "dm", "--budgets", "1MB", "--out", str(out))
    assert f"'attar run {tmp_path} --out FOLDER' chooses a recipe for it" in said
    assert f"its recipe is {mini_run / 'recipe.yaml'}." in told(capsys, "run", str(mini_run), "--out", str(out))
    assert not out.exists()


def test_one_class_is_refused(folders, tmp_path, capsys):
    source = folders({"only": 3})
    assert "class" in told(capsys, "run", "digits", "--out", str(tmp_path / "out"), "--data.source", source)
    assert not (tmp_path / "out").exists()


def test_corrupt_images_are_counted_and_the_first_is_named(folders, tmp_path, capsys):
    source = folders({"a": 3, "b": 3})
    bad = Path(source) / "train" / "a" / "0.png"
    bad.write_bytes(bad.read_bytes()[:40])
    arguments = ["run", "digits", "--out", str(tmp_path / "out"), "--data.source", source]
    said = told(capsys, *arguments)
    assert "1 of 6 images" in said
    assert str(bad) in said
    assert "--data.on-corrupt skip" in said


def test_other_settings_in_the_same_folder_are_refused_and_nothing_is_touched(mini_run, tmp_path, capsys):
    out = tmp_path / "copy"
    shutil.copytree(mini_run, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    said = told(capsys, "run", "digits", "--out", str(out), *MINI, "--recover.learning-rate", "0.2")
    assert "recover.learning_rate 0.1 -> 0.2" in said
    assert "choose another --out, or delete" in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_changed_parent_is_refused(mini_run, tmp_path, capsys):
    out = tmp_path / "copy"
    shutil.copytree(mini_run, out)
    shutil.rmtree(out / "squeeze")
    said = told(capsys, "run", "digits", "--out", str(out), *MINI, "--squeeze.training.epochs", "1")
    assert f"{out / 'recover'} was made from a teacher that is not the current one" in said


def test_a_typed_setting_without_effect_brings_a_warning(capsys):
    main(["show", "digits", "--recover.padding", "2", "--recover.crop", "none"])
    told = capsys.readouterr()
    assert "warning: --recover.padding has no effect: it counts only with --recover.crop padded" in told.err
    assert "warning" not in told.out


def test_protocols_are_listed_with_all_their_augmentation(capsys):
    main(["list", "protocols", "cim-batch-10"])
    assert ", whole images, DSA colour+crop+cutout+flip+scale+rotate (warp), no mixing" in capsys.readouterr().out
    main(["list", "protocols", "edc-cifar10"])
    assert ", RandAugment 2 at 3, random resized crops, CutMix\n" in capsys.readouterr().out
    main(["list", "protocols", "delt"])
    assert ", timm's RandAugment 2 at 6, random resized crops, CutMix\n" in capsys.readouterr().out


def test_members_are_shown_without_the_settings_that_they_share(capsys, tmp_path):
    members = ["--squeeze.members", "{architecture: convnet4, training: {epochs: 1}}", "{}"]
    main(["show", "digits", *members])
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["squeeze"]["members"] == [{"architecture": "convnet4", "training": {"epochs": 1}}, {}]
    (tmp_path / "mine.yaml").write_text(shown)
    main(["show", str(tmp_path / "mine.yaml")])
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(shown)


def test_list_and_help_name_everything(capsys):
    main(["list", "recipes"])
    recipes = capsys.readouterr().out
    assert {"digits", "cda/imagenet-21k-ipc20", "sre2l/cifar100-ipc50"} <= {
        line.split()[0] for line in recipes.splitlines()
    }
    main(["list", "methods"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == METHODS
    main(["list", "datasets"])
    assert "tiny-imagenet" in capsys.readouterr().out
    main(["list", "models", "convnet"])
    assert "convnet3" in capsys.readouterr().out
    main(["list", "protocols"])
    assert "hard-label" in capsys.readouterr().out
    main([])
    assert "attar run RECIPE --out FOLDER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("run --help", "usage: attar run RECIPE|PICTURES --out FOLDER"),
        ("relabel -h", "usage: attar relabel RECIPE|PICTURES --out FOLDER"),
        ("show --help", "usage: attar show RECIPE|PICTURES [OPTIONS]"),
        ("report --help", "usage: attar report"),
        ("export --help", "usage: attar export"),
        ("run digits --recover.ipc 37 --help", "--recover.ipc INT  [37]"),
        ("run digits --help all", "--recover.bn-weight NUMBER  [1.0]"),
        ("evaluate --help evaluate digits", "usage: attar evaluate digits"),
    ],
)
def test_help_is_printed_as_wide_as_the_terminal(arguments, wanted, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    assert end.value.code == 0
    said = capsys.readouterr()
    assert wanted in said.out
    assert max(map(len, said.out.splitlines())) <= 70
    assert said.err == ""


def test_the_help_fits_a_screen(capsys):
    main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_the_usage_of_list(capsys):
    main(["list", "--help"])
    assert capsys.readouterr().out.startswith("usage: attar list recipes|methods|")


def test_show_prints_a_file_that_is_as_good_as_the_name(tmp_path, capsys):
    main(["show", "cda/tiny-imagenet-ipc50", "--recover.iterations", "1000"])
    shown = capsys.readouterr().out
    assert shown.startswith("# cda/tiny-imagenet-ipc50\n")
    assert "48.7" in shown.split("name:")[0]
    assert yaml.safe_load(shown)["recover"]["iterations"] == 1000
    path = tmp_path / "mine.yaml"
    path.write_text(shown)
    main(["show", str(path)])
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(shown)


def test_show_plan_counts_units_and_bytes(capsys):
    main(["show", "digits", "--plan"])
    header = capsys.readouterr().out.split("\nname:")[0]
    assert "Units: 1 of up to 100 images" in header
    assert "Images: 100, 8 pixels square" in header


def test_changing_the_method_keeps_what_both_have(capsys):
    main(["show", "digits", "--method", "random"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["method"] == "random"
    assert shown["recover"]["ipc"] == 10
    assert "iterations" not in shown["recover"]


def test_run_prints_the_table_and_report_prints_it_again(finished, tmp_path, capsys):
    main(["run", "digits", "--out", str(finished), *MINI, "--quiet"])
    ran = capsys.readouterr()
    for row in ("distilled, hard labels", "random real, soft labels", "k-centre, hard labels", "all real images"):
        assert row in ran.out
    assert "Classes (distilled, convnet3): best " in ran.out
    assert re.search(
        r"squeeze \S+ s \(\S+\), recover \S+ s \(\S+\), relabel \S+ s \(\S+\), evaluate \S+ s \(\S+\)\n",
        ran.out,
    )
    assert f"Page: {finished / 'report' / 'index.html'}\n" in ran.out
    assert max(map(len, ran.out.split("Classes")[0].splitlines())) <= 100
    assert ran.err == ""
    main(["report", str(finished), "--csv", str(tmp_path / "table.csv")])
    assert capsys.readouterr().out == ran.out
    assert (tmp_path / "table.csv").read_text() == (finished / "report" / "table.csv").read_text()
    manifests = json.loads((tmp_path / "table.json").read_text())[finished.name]
    assert list(manifests) == ["squeeze", "recover", "relabel", "evaluate"]


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m attar list models | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr


def test_a_report_of_dd_rankings_scores_says_what_it_lacks(mini_run, tmp_path, capsys):
    main(["report", str(mini_run), "--ranking", "--csv", str(tmp_path / "ranking.csv")])
    said = capsys.readouterr().out
    assert "LRS" in said
    assert "full distilled-noaug random-noaug (trained students are kept)" in said
    assert (tmp_path / "ranking.csv").read_text().startswith("run,student,protocol,weight,hlr_mean")


def test_exports_are_refused_in_a_sentence(mini_run, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert "no layout named 'ddrank'; did you mean ddranking" in told(
        capsys, "export", "ddrank", str(mini_run), "--out", out
    )
    assert "add --out FOLDER" in told(capsys, "export", "ddranking", str(mini_run))
    assert "not the 10 classes of digits" in told(capsys, "export", "ddranking", str(mini_run), "--out", out)
    assert "is not finished" in told(capsys, "export", "ddranking", str(tmp_path), "--out", out)
    assert list(tmp_path.iterdir()) == []


def test_report_takes_the_finished_of_several_runs(finished, tmp_path, capsys):
    runs = [tmp_path / name for name in ("first", "second")]
    for run in runs:
        run.symlink_to(finished)
    nothing = tmp_path / "proxy"
    nothing.mkdir()
    (tmp_path / "all.txt").write_text("")
    main(["report", *map(str, (*runs, nothing, tmp_path / "all.txt")), "--csv", str(tmp_path / "all.csv")])
    said = capsys.readouterr()
    for left_out in (nothing, tmp_path / "all.txt"):
        assert f"{left_out} is left out, because it is not evaluated" in said.err
    assert f"{runs[0]}: Classes (distilled, convnet3): best '" in said.out
    names = {line.split(",")[0] for line in (tmp_path / "all.csv").read_text().splitlines()[1:]}
    assert names == set(map(str, runs)) == set(json.loads((tmp_path / "all.json").read_text()))


def test_reports_and_exports_are_refused_in_a_sentence(mini_run, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    run = str(mini_run)
    assert f"{file}/evaluate is not finished" in told(capsys, "report", str(file))
    assert "None of" in told(capsys, "report", str(file), str(tmp_path))
    assert "is a folder; name a file in it" in told(capsys, "report", run, "--csv", str(tmp_path))
    assert "would be overwritten by the manifests" in told(capsys, "report", run, "--csv", str(tmp_path / "a.json"))
    for layout in ("fkd", "ddranking"):
        assert "attar: " in told(capsys, "export", layout, str(file), "--out", str(tmp_path / "out"))
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_plan_is_shown_and_not_run(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert "'attar squeeze' has no --plan; use 'attar plan digits'" in told(
        capsys, "squeeze", "digits", "--out", out, "--plan"
    )
    assert "'attar show' has no --out" in told(capsys, "show", "digits", "--out", out)
    assert "choose one by --protocol NAME" in told(capsys, "run", "digits", "--out", out, "--evaluate.protocol", "rded")
    assert not list(tmp_path.iterdir())


def test_a_plan_of_images_made_elsewhere_counts_no_iterations(capsys):
    main(["show", "digits", "--plan", "--images", "theirs", "--relabel.mode", "online"])
    header = capsys.readouterr().out.split("\nname:")[0]
    assert "Images: 100, 8 pixels square, 19.2 kB as raw bytes, made elsewhere" in header
    assert "Soft labels: online, by the teacher" in header
    assert "iterations" not in header


def test_an_unknown_stage_is_refused(tmp_path):
    with pytest.raises(AttarError, match="no stage named 'relable'; did you mean relabel"):
        pipeline.run("digits", tmp_path / "out", stage="relable")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (Interrupted(143), 143)])
def test_an_interruption_is_a_sentence(error, code, capsys, monkeypatch):
    def interrupted(*_):
        raise error

    words = {"run": "continues where it stopped", "export": "starts from the beginning", "show": "starts from the"}
    monkeypatch.setitem(verbs.VERBS, "export", interrupted)
    monkeypatch.setattr(cli, "_run", interrupted)
    monkeypatch.setattr(cli, "_show", interrupted)
    for verb, expected in words.items():
        with pytest.raises(SystemExit) as end:
            main([verb])
        assert end.value.code == code
        assert capsys.readouterr().err.startswith(f"attar: Interrupted; the same command {expected}")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_ends_soon_and_continues(tmp_path, mini_run, number, code):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "attar", "run", "digits", "--out", str(out), *MINI]
    for unfinished in ("squeeze/log.jsonl", "evaluate/log.jsonl"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not (out / unfinished).exists():
            time.sleep(0.05)
        began = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - began < 3, "a second, on an idle machine"
        assert process.returncode == code
        assert said.splitlines()[-1] == "attar: Interrupted; the same command continues where it stopped."
        assert "Traceback" not in said
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "distilled, hard labels" in done.stdout
    for file in ("squeeze/teacher.safetensors", "recover/data/train-00000-of-00001.parquet"):
        assert (out / file).read_bytes() == (mini_run / file).read_bytes()
