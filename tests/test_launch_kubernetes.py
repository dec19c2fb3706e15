"""`launch/kubernetes.yaml` against the schemas of Kubernetes, and as `launch/kubernetes.sh` fills it in."""

import re

import fake_tools
import kubernetes_validate
import pytest
import yaml

from cbjax import cli

LAUNCH = fake_tools.ROOT / "launch"
ODD = """--config.note=it's $5 & "more" and $(PROCESS) $$x,\ttwo\nlines"""


def as_kubernetes_reads(argument):
    """The argument that the container gets: two dollars are one, and $(NAME) is a variable."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda match: f"<{match[1]}>" if match[1] else "$", argument)


def manifests(text):
    service, job = yaml.safe_load_all(text)
    for document in (service, job):
        kubernetes_validate.validate(document, "1.29", strict=True)
    return service, job


def check_names_and_flags(service, job):
    """One name holds Service, Job and coordinator together; hosts, pods and processes are as many."""
    name, hosts, pod = job["metadata"]["name"], job["spec"]["completions"], job["spec"]["template"]["spec"]
    assert (service["kind"], job["kind"], job["spec"]["completionMode"]) == ("Service", "Job", "Indexed")
    assert (service["metadata"]["name"], service["spec"]["clusterIP"]) == (name, "None")
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == name
    assert pod["terminationGracePeriodSeconds"] == 30
    assert job["spec"]["parallelism"] == hosts
    container = pod["containers"][0]
    assert container["args"][-3:] == [
        f"--coordinator={name}-0.{name}:8476",
        f"--processes={hosts}",
        "--process=$(PROCESS)",
    ]
    assert container["env"][0]["name"] == "PROCESS"
    return container


def test_the_manifest_is_valid_as_it_stands():
    container = check_names_and_flags(*manifests((LAUNCH / "kubernetes.yaml").read_text()))
    assert container["command"] + container["args"][:1] == ["cbjax", "train"]


def test_kubernetes_applies_the_manifest_filled_in(tmp_path):
    machine = fake_tools.Machine(tmp_path)
    options = ["--image=place/cbjax:1", "--hosts=16", "--gpus-per-host=4", "--name=my-run"]
    arguments = ["train", "--config=imagenet_lt", "--workdir=gs://bucket/runs", ODD, "--config.path=a\\b"]
    done = machine.run("kubernetes.sh", *options, "--kubectl-flag=--namespace=team", "--", *arguments)
    assert done.returncode == 0, done.stderr
    assert machine.calls("kubectl") == [["kubectl", "apply", "--filename=-", "--namespace=team"]]
    applied = (machine.fake / "manifest").read_text()
    container = check_names_and_flags(*manifests(applied))
    assert list(map(as_kubernetes_reads, container["args"][:-3])) == arguments
    assert container["image"] == "place/cbjax:1"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 4}
    assert "name: my-run\n" in applied
    assert "completions: 16\n" in applied
    shown = machine.run("kubernetes.sh", "--dry-run", *options, "--", *arguments).stdout
    assert shown.startswith(applied)


def test_the_flags_of_the_manifest_are_those_of_the_command(capsys):
    _, job = manifests((LAUNCH / "kubernetes.yaml").read_text())
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    with pytest.raises(SystemExit):
        cli.main([arguments[0], "--help"])
    described = capsys.readouterr().out
    for flag in [argument.partition("=")[0] for argument in arguments[1:]] + ["--distributed"]:
        assert f"{flag} " in described
