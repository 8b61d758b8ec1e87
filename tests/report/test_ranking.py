"""DD-Ranking's scores from manifests written by hand."""

import csv
import io
import json
import math

import pytest

from attar.core.errors import AttarError
from attar.report import ranking

TOP1 = {
    "distilled": [0.60, 0.62],
    "random-soft": [0.55, 0.53],
    "random-hard": [0.30, 0.32],
    "distilled-hard": [0.40, 0.36],
    "full": [0.90, 0.92],
    "distilled-noaug": [0.50, 0.50],
    "random-noaug": [0.51, 0.49],
}
FIVE = ["distilled", "random-soft", "random-hard", "distilled-hard", "full"]


def score(row, top1, seed, student="resnet18", protocol="cda v1"):
    return {"row": row, "student": student, "seed": seed, "top1": top1, "protocol": protocol}


def scores(rows, top1=TOP1, **others):
    return [
        score(row, value, seed, **({"protocol": "full data"} if row == "full" else {}) | others)
        for row in rows
        for seed, value in enumerate(top1[row])
    ]


def write(folder, found, rows=None, loss="soft"):
    request = {"evaluate": {"rows": rows or list(dict.fromkeys(s["row"] for s in found)), "protocol": {"loss": loss}}}
    (folder / "evaluate").mkdir(parents=True)
    (folder / "evaluate" / "manifest.json").write_text(
        json.dumps({"stage": "evaluate", "request": request, "result": {"scores": found}})
    )
    return folder


def normalised(exponent):
    return (math.exp(exponent) - 0.36787944) / 2.35040239


def test_all_rows_give_all_scores(tmp_path):
    (line,) = ranking.rankings(write(tmp_path / "run", scores(TOP1)))
    assert (line.run, line.student, line.protocol, line.missing) == ("run", "resnet18", "cda v1", ())
    assert line.hlr == ranking.RankingScore(pytest.approx(0.53), pytest.approx(0.06 / math.sqrt(2)), 2)  # 0.50 and 0.56
    assert line.ior == ranking.RankingScore(pytest.approx(0.07), pytest.approx(0.04 / math.sqrt(2)), 2)  # 0.05 and 0.09
    first, second = normalised(0.025 - 0.25), normalised(0.045 - 0.28)
    assert line.lrs.mean == pytest.approx((first + second) / 2, abs=1e-7)
    assert line.lrs.std == pytest.approx(abs(first - second) / math.sqrt(2), abs=1e-7)
    first, second = normalised(0.025 - 0.005), normalised(0.045 + 0.005)  # without augmentation: -0.01 and 0.01
    assert line.ars.mean == pytest.approx((first + second) / 2, abs=1e-7)
    assert line.ars.std == pytest.approx(abs(first - second) / math.sqrt(2), abs=1e-7)
    assert ranking.hints([line]) == []


def test_the_weight_is_that_of_the_improvement(tmp_path):
    run = write(tmp_path / "run", scores(TOP1))
    (line,) = ranking.rankings(run, weight=1.0)
    assert line.lrs.mean == pytest.approx((normalised(0.05) + normalised(0.09)) / 2, abs=1e-7)
    assert line.ars.mean == line.lrs.mean


def test_the_rows_of_today_give_the_improvement_and_say_what_is_missing(tmp_path):
    run = write(tmp_path / "run", scores(["distilled", "random-soft", "random-hard", "full"]))
    (line,) = ranking.rankings(run)
    assert (line.hlr, line.lrs, line.ars) == (None, None, None)
    assert line.ior.mean == pytest.approx(0.07)
    assert set(line.missing) == {"distilled-hard", "distilled-noaug", "random-noaug"}
    (sentence,) = ranking.hints([line])
    assert sentence == (
        "run: HLR, LRS and ARS need the rows distilled-hard, distilled-noaug and random-noaug; add them with "
        "--evaluate.rows distilled random-soft random-hard full distilled-hard distilled-noaug random-noaug "
        "(trained students are kept)."
    )


def test_five_rows_give_all_but_the_augmentation_robust_score(tmp_path):
    (line,) = ranking.rankings(write(tmp_path / "run", scores(FIVE)))
    assert line.lrs is not None
    assert line.ars is None
    assert line.missing == ("distilled-noaug", "random-noaug")
    assert "run: ARS need" in ranking.hints([line])[0]


def test_seeds_are_paired(tmp_path):
    found = [s for s in scores(FIVE) if not (s["row"] == "random-soft" and s["seed"] == 0)]
    (line,) = ranking.rankings(write(tmp_path / "run", found))
    assert line.ior == ranking.RankingScore(pytest.approx(0.09), None, 1)
    assert line.hlr.num_seeds == 2
    assert line.lrs == ranking.RankingScore(pytest.approx(normalised(0.045 - 0.28), abs=1e-7), None, 1)
    assert "| 1 to 2 |" in ranking.as_markdown([line])


def test_rows_without_a_seed_in_common_give_nothing(tmp_path):
    found = [s for s in scores(FIVE) if s["seed"] == (1 if s["row"] == "random-soft" else 0)]
    (line,) = ranking.rankings(write(tmp_path / "run", found))
    assert (line.ior, line.lrs) == (None, None)
    assert line.hlr.mean == pytest.approx(0.5)


def test_students_are_kept_apart(tmp_path):
    other = {row: [value / 2 for value in values] for row, values in TOP1.items()}
    found = scores(FIVE) + scores(FIVE[:4], other, student="convnet4")
    first, second = ranking.rankings(write(tmp_path / "run", found))
    assert (first.student, second.student) == ("resnet18", "convnet4")
    assert second.ior.mean == pytest.approx(0.035)
    assert (second.hlr, second.lrs) == (None, None)
    assert second.missing == ("full", "distilled-noaug", "random-noaug")


def test_the_teacher_stands_for_all_real_images_of_its_own_network(tmp_path):
    found = [*scores(FIVE[:4]), score("full", 0.91, 0, protocol="the teacher")]
    (line,) = ranking.rankings(write(tmp_path / "run", found))
    assert line.hlr == ranking.RankingScore(pytest.approx(0.53), pytest.approx(0.04 / math.sqrt(2)), 2)  # 0.51 and 0.55


def test_a_teacher_of_another_network_does_not(tmp_path):
    found = [*scores(FIVE[:4]), score("full", 0.95, 0, student="resnet50", protocol="the teacher")]
    (line,) = ranking.rankings(write(tmp_path / "run", found))
    assert (line.hlr, line.lrs) == (None, None)
    assert any("--evaluate.full-data train" in sentence for sentence in ranking.hints([line]))


def test_a_row_asked_for_and_not_made_is_not_asked_for_again(tmp_path):
    run = write(tmp_path / "run", scores(["distilled", "distilled-hard", "full"]), rows=FIVE)
    sentences = ranking.hints(ranking.rankings(run))
    assert any("row random-soft was requested but never made" in sentence for sentence in sentences)
    assert not any("need the rows random-soft" in sentence for sentence in sentences)


def test_a_protocol_of_hard_labels_needs_no_second_training(tmp_path):
    found = scores(["distilled", "random-hard", "full"])
    (line,) = ranking.rankings(write(tmp_path / "run", found, loss="hard"))
    assert line.hlr.mean == pytest.approx(0.30)  # 0.90 - 0.60 and 0.92 - 0.62
    assert line.ior.mean == pytest.approx(0.30)
    assert line.lrs is not None


def test_rows_of_another_protocol_are_not_mixed_in(tmp_path):
    other = {row: [0.1, 0.1] for row in TOP1}
    found = scores(FIVE) + scores(FIVE[:4], other, protocol="rded v1")
    first, second = ranking.rankings(write(tmp_path / "run", found))
    assert (first.protocol, second.protocol) == ("cda v1", "rded v1")
    assert first.ior.mean == pytest.approx(0.07)
    assert second.ior.mean == 0
    assert second.hlr.mean == pytest.approx(0.81)  # all real images have a protocol of their own, and one only


def test_csv_has_fractions_and_blanks(tmp_path):
    run = write(tmp_path / "run", scores(FIVE))
    (row,) = csv.DictReader(io.StringIO(ranking.as_csv(ranking.rankings(run))))
    assert row["hlr_mean"] == "0.53"
    assert row["ior_num_seeds"] == "2"
    assert (row["ars_mean"], row["ars_std"]) == ("", "")


def test_markdown_shows_points_and_what_is_missing(tmp_path):
    text = ranking.as_markdown(ranking.rankings(write(tmp_path / "run", scores(FIVE))))
    assert "| resnet18 | cda v1 | 2 | 53.0 ± 4.2 | 7.0 ± 2.8 | 0.182 ± 0.002 | - |" in text
    assert "--evaluate.rows" in text


def test_a_terminal_shows_every_student(tmp_path):
    table = ranking.for_terminal(ranking.rankings(write(tmp_path / "run", scores(TOP1))), 200)
    assert [column.header for column in table.columns][-2:] == ["LRS", "ARS"]
    assert table.row_count == 1


def test_a_run_without_scores_is_refused(tmp_path):
    with pytest.raises(AttarError, match="not finished"):
        ranking.rankings(tmp_path)
    with pytest.raises(AttarError, match="--evaluate.rows"):
        ranking.rankings(write(tmp_path / "run", scores(["full"])))


def test_a_real_run_is_read(mini_run):
    (line,) = ranking.rankings(mini_run)
    assert line.ior.num_seeds == 2
    assert line.hlr.num_seeds == line.lrs.num_seeds == 2
    assert line.ars is None
    assert {"distilled-noaug", "random-noaug"} <= set(line.missing)
