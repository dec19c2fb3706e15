"""What an installation gets: a quick import, and a wheel that is whole without a clone."""

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from importlib.metadata import packages_distributions

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cbjax
from cbjax.host import installed

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ("3.11", "3.12", "3.13")


def python(program, folder=ROOT, cwd=ROOT):
    """Runs a program that finds cbjax in `folder`; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def build(builder, root, folder):
    (path,) = builder(str(root)).build(directory=str(folder), versions=["standard"])
    return pathlib.Path(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(WheelBuilder, ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.mark.parametrize("modules", ["cbjax", "cbjax.losses"])
def test_importing_costs_little(modules):
    heavy = "{'tensorflow', 'tensorflow_datasets', 'grain', 'orbax', 'sklearn', 'matplotlib'}"
    assert python(f"import sys, {modules}; print({heavy} & {{name.split('.')[0] for name in sys.modules}})") == "set()"


# Packages of the extra [train] that Flax brings as well.
WITH_FLAX = {"etils", "orbax", "rich"}


def without_train(program):
    """Runs a program where only the packages of a plain `pip install cbjax` can be imported."""
    return python(f"import sys\nfor name in {set(installed.TRAIN) - WITH_FLAX}: sys.modules[name] = None\n{program}")


def test_losses_weights_and_networks_need_a_small_installation():
    program = (
        "import jax, numpy as np\n"
        "from cbjax import difficulty, losses, metrics, models, optim, weights\n"
        "from cbjax.data.longtail import exponential_counts\n"
        "model = models.build('lenet5', 3)\n"
        "state = jax.eval_shape(model.init, jax.random.key(0), np.zeros((2, 28, 28, 1), np.float32))\n"
        "print(weights.class_balanced(exponential_counts(100, 3, 10.0), beta=0.9).shape)"
    )
    assert without_train(program) == "(3,)"


def test_parts_that_need_more_packages_say_which_installation_has_them():
    told = r'needs what pip install "cbjax\[train\]" brings; missing here: argcomplete, array_record, clu, grain, '
    program = "import cbjax\nfor name in ('train', 'config'):\n    try: getattr(cbjax, name)\n"
    found = without_train(program + "    except ImportError as error: print(error)").splitlines()
    assert re.match(f"cbjax.train {told}", found[0]) and re.match(f"cbjax.config {told}", found[1])
    program = "from cbjax.cli import main\nsys.stderr = sys.stdout\n"
    assert re.match(rf"cbjax train {told}.*\n2$", without_train(program + "print(main(['train']))"))
    assert re.match(rf"cbjax {told}.*\n2$", without_train(program + "print(main(['--help']))"))


def test_every_package_of_the_extra_is_looked_for():
    wanted = {Requirement(line) for line in PROJECT["optional-dependencies"]["train"]}
    wanted = {canonicalize_name(package.name) for package in wanted if package.marker is None}
    brought_by = packages_distributions()
    assert {canonicalize_name(name) for module in installed.TRAIN for name in brought_by[module]} >= wanted
    assert len(installed.TRAIN) == len(wanted)


def test_importing_changes_no_environment():
    # JAX sets variables of its own.
    program = (
        "import os, jax; before = dict(os.environ); import cbjax, cbjax.losses, cbjax.config, cbjax.training.run; "
    )
    assert python(program + "print(os.environ == before)") == "True"


def test_the_wheel_is_whole(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "cbjax").rglob("*.py")}
    configs = {f"cbjax/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")}
    assert {"cbjax/configs/digits_lt.py", "cbjax/configs/sweeps/digits_lt.py"} <= configs
    information = f"cbjax-{cbjax.__version__}.dist-info"
    named = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert names == sources | configs | {"cbjax/py.typed"} | {f"{information}/{name}" for name in named}


def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = message_from_string(archive.read(f"cbjax-{cbjax.__version__}.dist-info/METADATA").decode())
        entry_points = archive.read(f"cbjax-{cbjax.__version__}.dist-info/entry_points.txt").decode()
    assert (metadata["Name"], metadata["Version"]) == ("cbjax", cbjax.__version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert metadata["Requires-Python"] == PROJECT["requires-python"] == f">={PYTHONS[0]}"
    extras = {"train", "cuda", "gcs", "tpu", "prepare", "smote", "video", "test", "docs", "notebooks"}
    assert set(metadata.get_all("Provides-Extra")) == extras
    assert "cbjax = cbjax.cli:main" in entry_points


def test_the_wheel_finds_its_configs_without_a_clone(wheel, tmp_path):
    unpacked, elsewhere = tmp_path / "unpacked", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(unpacked)
    elsewhere.mkdir()
    program = "from cbjax import config; from cbjax.sweeps import file; runs = file.load('digits_lt')[1]; "
    program += "names = config.load('digits_lt').data.name, len(runs); "
    assert python(program + "print(config.__file__, *names)", unpacked, elsewhere).split() == [
        str(unpacked / "cbjax" / "config" / "__init__.py"),
        "digits",
        "12",
    ]


def test_the_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    with tarfile.open(build(SdistBuilder, ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / f"cbjax-{cbjax.__version__}"
    assert (source / "launch" / "local.sh").is_file() and (source / "constraints.txt").is_file()
    assert build(WheelBuilder, source, tmp_path / "wheel").read_bytes() == wheel.read_bytes()


def test_there_is_one_version():
    assert PROJECT["version"] == cbjax.__version__
    assert f"version: {cbjax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("version", PYTHONS)
def test_every_dependency_has_one_tested_version(version):
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            pin = Requirement(line)
            assert re.fullmatch(r"==[\w.]+", str(pin.specifier)) and not pin.url, line
            if pin.marker is None or pin.marker.evaluate({"python_version": version}):
                assert canonicalize_name(pin.name) not in pins, line
                (only,) = pin.specifier
                pins[canonicalize_name(pin.name)] = only.version
    extras = PROJECT["optional-dependencies"]
    assert (extras["test"][0], extras["docs"][0]) == ("cbjax[train,smote,video]", "cbjax[train]")
    for line in (
        PROJECT["dependencies"]
        + extras["train"]
        + extras["smote"]
        + extras["video"]
        + extras["test"][1:]
        + extras["docs"][1:]
    ):
        needed = Requirement(line)
        assert needed.specifier.contains(pins[canonicalize_name(needed.name)]), line


def test_no_file_names_a_machine_or_a_registry():
    ours = ("cbjax", "configs", "docs", "tests", "launch", "notebooks", ".ci", ".github")
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for folder in ours for path in (ROOT / folder).rglob("*") if path.is_file()]
    machine = r"(?<![\w.~}-])/(?:work|home|root|Users|mnt|srv|scratch|tmp)/\w"
    registry = r"\bpypi\b|pythonhosted|npmjs|anaconda\.org|deb(?:ian)?\.org|index-url"
    for path in files:
        if any(part.endswith("_cache") for part in path.parts):
            continue
        if path.suffix not in {".pyc", ".png", ".npz"} and path != pathlib.Path(__file__):
            found = re.search(f"{machine}|{registry}", path.read_text())
            assert not found, f"{path.relative_to(ROOT)}: {found[0]}"
