"""The scripts of `launch/` run for real, with stand-ins for the tools that rent machines."""

import pathlib
import re
import signal
import subprocess
import sys

import fake_tools
import pytest
from processes import wait_for

LAUNCH = fake_tools.ROOT / "launch"
SCRIPTS = ["tpu_vm.sh", "slurm.sh", "gpu.sh", "kubernetes.sh"]
TPU = ["--zone=us-west4-a", "--accelerator-type=v5litepod-16"]
BUCKET = "--workdir=gs://bucket/runs"
ODD = """--config.note=it's $5 & "more" """


@pytest.fixture
def machine(tmp_path):
    return fake_tools.Machine(tmp_path)


def wait_for_start(machine, process):
    assert wait_for(process, (machine.fake / "started").exists, timeout=20)


def test_shellcheck_finds_nothing():
    shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
    scripts = sorted(path.name for path in LAUNCH.glob("*.sh"))
    assert {*SCRIPTS, "local.sh", "test.sh", "setup.sh"} < {*scripts}
    done = subprocess.run([shellcheck, *scripts], cwd=LAUNCH, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_needs_no_argument_and_no_tool_and_runs_nothing(machine, script):
    for name in fake_tools.TOOLS:
        (machine.bin / name).unlink()
    done = machine.run(script, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    tool = {"tpu_vm.sh": "gcloud", "slurm.sh": "sbatch", "gpu.sh": "nvidia-smi", "kubernetes.sh": "kubectl"}[script]
    assert tool in done.stdout
    assert "train" in done.stdout
    assert not machine.calls(*fake_tools.TOOLS)
    assert not (machine.clone / ".venv").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_each_option_that_the_script_reads(machine, script):
    done = machine.run(script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"bash launch/{script} OPT" if script != "gpu.sh" else "bash launch/gpu.sh [OPT")
    options = re.findall(r"^ +(--[a-z-]+)=?\*?\) ", (LAUNCH / script).read_text(), re.MULTILINE)
    assert len(options) > 3 or script == "gpu.sh"
    assert all(f"  {option}" in done.stdout for option in options)


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("tpu_vm.sh", [*TPU], "arguments behind --"),
        ("tpu_vm.sh", [TPU[1], "--", "train", BUCKET], "needs --zone=ZONE"),
        ("tpu_vm.sh", [TPU[0], "--", "train", BUCKET], "needs --accelerator-type=TYPE"),
        ("tpu_vm.sh", [*TPU, "--", "train", "--workdir=runs"], "needs --workdir=gs://BUCKET/DIR"),
        ("tpu_vm.sh", [*TPU, "--", "sweep", BUCKET], "trains single runs: a sweep wants a folder"),
        ("tpu_vm.sh", [*TPU, "--retries=some", "--", "train", BUCKET], "--retries must be a whole number"),
        ("tpu_vm.sh", [*TPU, "--name=my run", "--", "train", BUCKET], "got 'my run'"),
        ("tpu_vm.sh", ["--zone", "us-west4-a"], "unknown option --zone"),
        ("slurm.sh", ["--gpus-per-node=8"], "arguments behind --"),
        ("slurm.sh", ["--", "train"], "needs --gpus-per-node=N"),
        ("slurm.sh", ["--gpus-per-node=all", "--", "train"], "--gpus-per-node must be a whole number"),
        ("gpu.sh", [], "needs cbjax's arguments"),
        ("gpu.sh", ["--all", "train"], "unknown option --all"),
        ("kubernetes.sh", ["--image=i"], "arguments behind --"),
        ("kubernetes.sh", ["--", "train"], "needs --image=IMAGE"),
        ("kubernetes.sh", ["--image=i", "--", "eval"], "must be train or sweep"),
        ("kubernetes.sh", ["--image=i", "--name=2nd", "--", "train"], "got '2nd'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(machine, script, arguments, message):
    done = machine.run(script, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{script}: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not machine.calls(*fake_tools.TOOLS)


@pytest.mark.parametrize(
    ("script", "tool", "arguments"),
    [
        ("tpu_vm.sh", "gcloud", [*TPU, "--", "train", BUCKET]),
        ("slurm.sh", "sbatch", ["--gpus-per-node=8", "--", "train"]),
        ("gpu.sh", "nvidia-smi", ["train"]),
        ("kubernetes.sh", "kubectl", ["--image=i", "--", "train"]),
    ],
)
def test_a_missing_tool_is_named(machine, script, tool, arguments):
    (machine.bin / tool).unlink()
    done = machine.run(script, *arguments)
    assert done.returncode == 2
    assert f"needs {tool}, which is not on PATH" in done.stderr


def test_quoted_words_are_read_back_by_the_shell():
    words = ["plain", "", "two words", "it's", '"$HOME" `a` \\', "*", "a\nb", "~", "é", "-n", "a=b", "'"]
    line = subprocess.run(
        ["bash", "-c", f'source "{LAUNCH}/common.sh"; quoted "$@"', "bash", *words],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert fake_tools.shell_words(line.rstrip("\n")) == words


def test_tpu_vm_makes_a_slice_trains_on_its_workers_and_deletes_it(machine):
    options = [*TPU, "--project=p", "--spot", "--create-flag=--network=n", "--delete"]
    done = machine.run("tpu_vm.sh", *options, "--", "train", "--config=imagenet", BUCKET, ODD)
    assert done.returncode == 0, done.stderr
    assert machine.verbs() == ["create", "scp", "ssh", "ssh", "delete"]
    create, scp = [words[3:] for words in machine.calls("gcloud") if words[4] in ("create", "scp")]
    where = ["--zone=us-west4-a", "--project=p"]
    made = ["--node-id=cbjax", "--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"]
    assert create == ["queued-resources", "create", "cbjax", *made, "--network=n", *where]
    assert scp[:2] + scp[3:] == ["tpu-vm", "scp", "cbjax:cbjax.tar.gz", "--worker=all", *where]
    assert all({"--worker=all", *where} <= {*words} for words in machine.calls("gcloud") if words[4] == "ssh")
    assert machine.calls("cbjax") == [["cbjax", "train", "--config=imagenet", BUCKET, ODD, "--distributed=auto"]]
    install = next(words for words in machine.calls("python") if "install" in words)
    assert install[-4:] == ["--constraint", "constraints.txt", "--editable", ".[train,tpu,gcs]"]
    assert "still exists" not in done.stderr
    assert [path.name for path in machine.fake.glob("tmp.*")] == []


@pytest.mark.parametrize("loss", ["preempted", "machines"])
def test_tpu_vm_makes_a_lost_slice_again_and_resumes(machine, loss):
    machine.plan(loss)
    done = machine.run("tpu_vm.sh", *TPU, "--", "train", BUCKET)
    assert done.returncode == 0, done.stderr
    once = ["create", "scp", "ssh", "ssh"]
    assert machine.verbs() == [*once, "delete", *once]
    delete = next(words for words in machine.calls("gcloud") if words[4] == "delete")
    assert delete[3:] == ["queued-resources", "delete", "cbjax", "--force", "--quiet", "--zone=us-west4-a"]
    first, second = machine.calls("cbjax")
    assert first == second
    assert "attempt 2 of 21 goes on from the last checkpoint" in done.stderr
    assert "the slice still exists and is charged" in done.stderr


def test_tpu_vm_takes_the_slice_that_is_there_and_runs_again_on_it_after_a_crash(machine):
    (machine.fake / "state").write_text("ACTIVE\n")
    machine.plan("killed")
    done = machine.run("tpu_vm.sh", *TPU, "--", "train", BUCKET)
    assert done.returncode == 0, done.stderr
    assert machine.verbs() == ["scp", "ssh", "ssh"] * 2
    assert ": cbjax aborted, as it does when it loses another process" in done.stderr
    assert "Task 3 heartbeat timeout. This indicates" in done.stderr
    assert "status 134 (lost: process 3): attempt 2" in done.stderr


def test_tpu_vm_replaces_a_slice_that_is_over(machine):
    (machine.fake / "state").write_text("SUSPENDED\n")
    assert machine.run("tpu_vm.sh", *TPU, "--", "train", BUCKET).returncode == 0
    assert machine.verbs() == ["delete", "create", "scp", "ssh", "ssh"]


def test_tpu_vm_does_not_repeat_what_cbjax_refuses(machine):
    machine.plan("diverged")
    done = machine.run("tpu_vm.sh", *TPU, "--delete", "--", "train", BUCKET)
    assert done.returncode == 1
    assert "cbjax ended with status 1" in done.stderr
    assert machine.verbs() == ["create", "scp", "ssh", "ssh"]


def test_tpu_vm_gives_up_after_its_retries_and_at_once_where_gcloud_refuses(machine):
    machine.plan("killed", "killed", "killed")
    done = machine.run("tpu_vm.sh", *TPU, "--retries=1", "--", "train", BUCKET)
    assert done.returncode == 1
    assert "status 134 (lost: process 3) at the last of 2 attempts" in done.stderr
    assert len(machine.calls("cbjax")) == 2
    (machine.fake / "logged_out").touch()
    done = machine.run("tpu_vm.sh", *TPU, "--", "train", BUCKET)
    assert done.returncode == 1
    assert done.stderr.endswith("ERROR: you are logged out\n")


def test_tpu_vm_stopped_by_a_signal_lets_the_workers_save(machine):
    machine.plan("waits")
    process = machine.start("tpu_vm.sh", *TPU, "--", "train", BUCKET)
    wait_for_start(machine, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert (machine.fake / "saved").exists()
    assert machine.remote()[-1] == "--command=bash cbjax/launch/tpu_worker.sh stop"
    assert "the slice still exists and is charged" in stderr


def test_a_worker_with_an_old_python_gets_another(machine):
    (machine.fake / "old_python").touch()
    done = machine.run("tpu_worker.sh", "install")
    assert done.returncode == 0, done.stderr
    brought = [" ".join(words[1:]) for words in machine.calls("python3", "python3.12") if "-c" not in words]
    assert brought[:3] == [
        "-m pip install --quiet --user uv",
        "-m uv python install --managed-python 3.12",
        "-m uv python find --managed-python 3.12",
    ]
    assert machine.calls("python3.12")[-1] == ["python3.12", "-m", "venv", ".venv"]


def test_a_worker_given_the_command_again_ends_the_first_one(machine):
    assert machine.run("tpu_worker.sh", "install").returncode == 0
    machine.plan("waits")
    first = machine.start("tpu_worker.sh", "run", "train")
    wait_for_start(machine, first)
    assert machine.run("tpu_worker.sh", "run", "train").returncode == 0
    first.communicate(timeout=20)
    assert first.returncode == 143
    assert (machine.fake / "saved").exists()


def test_slurm_submits_a_job_that_starts_a_process_a_gpu(machine):
    options = ["--nodes=2", "--gpus-per-node=4", "--time=2:00:00", "--name=50%j", "--sbatch-flag=--partition=my gpus"]
    done = machine.run("slurm.sh", *options, "--", "train", BUCKET, ODD)
    assert done.returncode == 0, done.stderr
    (sbatch,) = machine.calls("sbatch")
    job = sbatch.index(str(machine.clone / "launch" / "slurm_job.sh"))
    assert sbatch[1:job] == [
        *("--job-name=50%j", "--output=50%%j-%j.log", "--open-mode=append", "--requeue", "--signal=B:USR1@120"),
        *("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=8", "--time=2:00:00"),
        "--partition=my gpus",
    ]
    assert sbatch[job + 1 :] == [str(machine.clone), "train", BUCKET, ODD, "--distributed=auto"]
    assert any(".[train,cuda,gcs]" in words for words in machine.calls("python"))
    assert machine.run("slurm_job.sh", *sbatch[job + 1 :], SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="8").returncode == 0
    (srun,) = machine.calls("srun")
    cbjax = str(machine.clone / ".venv" / "bin" / "cbjax")
    flags = ["--kill-on-bad-exit=1", "--gpu-bind=none", "--cpus-per-task=8"]
    assert srun[1:] == [*flags, cbjax, "train", BUCKET, ODD, "--distributed=auto"]
    assert not machine.calls("scontrol", "scancel")


@pytest.mark.parametrize(("end", "again"), [("limit", True), ("cancelled", False), ("mistake", False)])
def test_a_slurm_job_is_queued_again_only_at_its_time_limit(machine, end, again):
    machine.plan(end)
    done = machine.run("slurm_job.sh", str(machine.clone), "train", SLURM_JOB_ID="7")
    assert done.returncode == (2 if end == "mistake" else 143)
    assert machine.calls("scancel") == ([["scancel", "--signal=TERM", "7"]] if again else [])
    assert machine.calls("scontrol") == ([["scontrol", "requeue", "7"]] if again else [])
    if again:
        resumed = machine.run("slurm_job.sh", str(machine.clone), "train", SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1")
        assert resumed.returncode == 0
        assert "start 1 of job 7" in resumed.stderr
        first, second = machine.calls("srun")
        assert first == second


def test_local_runs_what_it_is_given_where_it_was_called(machine):
    # With CDPATH, `cd` to a relative folder may go to another place.
    (machine.fake / "launch").mkdir()
    done = subprocess.run(
        [machine.bin / "bash", "launch/local.sh", "train", "--workdir=my runs", ODD],
        env=machine.environment(CDPATH=str(machine.fake)),
        cwd=machine.clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert machine.calls("cbjax") == [["cbjax", "train", "--workdir=my runs", ODD]]


def test_an_environment_that_was_moved_or_is_of_an_old_python_is_made_anew(machine):
    assert machine.run("local.sh", "train").returncode == 0
    made = ["python3", "-m", "venv", ".venv"]
    assert machine.calls("python3").count(made) == 1
    for broken in ("pip", "python"):  # of a moved clone, or as an old Python answers
        tool = machine.clone / ".venv" / "bin" / broken
        tool.write_text("#!/usr/bin/env bash\nexit 1\n")
        (machine.clone / ".venv" / "installed[train]").unlink()
        done = machine.run("local.sh", "train")
        assert done.returncode == 0, done.stderr
    assert machine.calls("python3").count(made) == 3
    # A PYTHON that cannot be used gives way to the next one, whose environment stays.
    assert machine.run("local.sh", "train", PYTHON="no-such-python").returncode == 0
    assert machine.calls("python3").count(made) == 3


def test_gpu_installs_for_cuda_and_becomes_the_command(machine):
    machine.plan("diverged")
    done = machine.run("gpu.sh", "--", "train", "--workdir=my runs", ODD)
    assert done.returncode == 1, done.stderr
    assert machine.calls("cbjax") == [["cbjax", "train", "--workdir=my runs", ODD]]
    assert any(".[train,cuda]" in words for words in machine.calls("python"))
    machine.plan("waits")
    process = machine.start("gpu.sh", "train")
    wait_for_start(machine, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert (machine.fake / "saved").exists()


def test_gpu_refuses_a_machine_whose_gpus_do_not_answer(machine):
    (machine.fake / "gpus").write_text("9")
    done = machine.run("gpu.sh", "train")
    assert done.returncode == 2
    assert "finds no usable GPU" in done.stderr
    assert not machine.calls("python3", "cbjax")
