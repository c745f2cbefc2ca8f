"""The command rl: its summary, its settings, and what it refuses."""

from pathlib import Path

from tests.cli.road import Road, done, refused

SMALL = (
    *("--set", "num_generations=4", "--set", "per_device_train_batch_size=8"),
    *("--set", "max_steps=2", "--set", "eval_users=8", "--allow-worse-slices"),
)


def test_rl_prints_validations_its_summary_and_the_next_command(road: Road, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("rl", road.tuned, road.examples, "-o", out, *SMALL)
    ran = done(*command, "--reward", "rank=1,exact=0.5", "--algorithm", "ecpo", "--json")
    assert ran.json["algorithm"] == "ecpo"
    assert ran.json["model"] == str(out)
    assert (ran.json["steps"], ran.json["groups"]) == (2, 4)
    lines = ran.err.splitlines()
    assert lines[0].startswith(f"ecpo starts from {road.tuned}")
    assert "reward rank=1,exact=0.5" in lines[0]
    assert any(line.startswith("step 0") and "start hr@10 " in line for line in lines)
    (validation,) = [line for line in lines if line.startswith("step 2") and "survival@1" in line]
    for name in ("hr@10", "coverage@10", "reward", "dead groups", "kl", "worse slices"):
        assert f"{name} " in validation
    assert ran.last == f"next: sidtool evaluate {out} SPLIT"
    assert "--force" in refused(2, *command)
    # the result is a model like any other
    done("recommend", out, "--history", "b001", "-k", "3")


def test_settings_come_from_a_file_and_a_dry_run_writes_nothing(road: Road, tmp_path: Path) -> None:
    config = tmp_path / "rl.yaml"
    config.write_text("algorithm: gspo\nnum_generations: 8\nsft_weight: 0.2\n")
    command = ("rl", road.tuned, road.examples, "-o", tmp_path / "out", "--config", config)
    ran = done(*command, "--set", "num_generations=4", "--dry-run")
    assert "gspo starts from" in ran.err
    assert "groups of 4, reward exact=1,rank=1" in ran.err
    plan = done(*command, "--set", "num_generations=4", "--dry-run", "--json").json
    assert (plan["dry_run"], plan["start"]) == (True, str(road.tuned))
    assert plan["options"]["algorithm"] == "gspo"
    assert plan["settings"]["num_generations"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["rl.yaml"]
