"""A work directory in a bucket: a served imitation of Google's storage holds it, for epath and for Orbax alike."""

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest

import cbjax
from cbjax.cli import main
from tests import processes

# Google's storage says which generation of an object it gives to a reader. TensorStore needs to know.
SERVER = """
import sys, time
from gcp_storage_emulator.handlers import objects

plain = objects.download


def download(request, response, storage, *args, **kwargs):
    key = request.params["bucket_name"], request.params["object_id"]
    try:
        response["x-goog-generation"] = storage.get_file_obj(*key)["generation"]
    except Exception:
        pass  # not there: `plain` says so
    return plain(request, response, storage, *args, **kwargs)


objects.download = download
import types
from http import HTTPStatus
from gcp_storage_emulator import server

# "Not implemented" is asked again for half a minute, "bad request" not: gcsfs then copies what it cannot move.
names = {status.name: status for status in HTTPStatus} | {"NOT_IMPLEMENTED": HTTPStatus.BAD_REQUEST}
server.HTTPStatus = types.SimpleNamespace(**names)
server.create_server("localhost", int(sys.argv[1]), in_memory=True, default_bucket="bucket").start()
time.sleep(600)
"""
RUN = (
    "--config=digits_lt",
    "--config.model.name=linear",
    "--config.data.test=20",
    "--config.data.validation=10",
    "--config.checkpoint.every_epochs=1",
    "--config.num_epochs=5",
)


@pytest.fixture(scope="module")
def bucket():
    """The environment in which gs://bucket is served."""
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stderr=subprocess.DEVNULL)
    url = f"http://localhost:{port}"
    processes.wait_for(server, lambda: answers(url))
    # Without the last, Google's library looks for a machine of its cloud, for many seconds.
    served = {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url, "GOOGLE_CLOUD_PROJECT": "none"}
    yield {**served, "NO_GCE_CHECK": "true"}
    server.kill()
    server.wait()


def answers(url):
    try:
        urllib.request.urlopen(f"{url}/storage/v1/b/bucket", timeout=1).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def python(program, environment):
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**processes.environment(), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def served(bucket, folder):
    """The names of the objects in a folder of the bucket."""
    url = f"{bucket['STORAGE_EMULATOR_HOST']}/storage/v1/b/bucket/o?prefix={folder}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return [item["name"] for item in json.load(answer).get("items", ())]


@pytest.mark.slow
def test_a_run_in_a_bucket_is_killed_resumed_and_loaded(bucket, tmp_path):
    """It ends as the same run on a disk does, with the same files."""
    here = processes.run("train", f"--workdir={tmp_path / 'here'}", *RUN)
    assert here.returncode == 0, here.stderr
    there = ("train", "--workdir=gs://bucket/runs/there", *RUN)
    process = subprocess.Popen(
        processes.command(*there),
        env={**processes.environment(), **bucket},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert processes.wait_for(process, lambda: len(served(bucket, "runs/there/checksums/")) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = processes.run(*there, "--profile=2", **bucket)
    assert done.returncode == 0, done.stderr
    assert "resumed at step " in done.stdout and "report: gs://bucket/runs/there/report.md" in done.stdout
    assert "restored step" in processes.run(*there, **bucket).stdout
    local = {path.name for path in (tmp_path / "here").iterdir() if not path.name.startswith((".", "events"))}
    assert local <= {name.split("/")[2] for name in served(bucket, "runs/there/")}
    assert "steps: gs://bucket/runs/there/profile" in done.stdout
    program = (
        "import json, jax, numpy as np, cbjax; run = cbjax.load('gs://bucket/runs/there'); "
        "from etils import epath; folder = epath.Path('gs://bucket/runs/there/profile'); "
        "traces = [str(path) for path in folder.glob('plugins/profile/*/*.xplane.pb')]; "
        "leaves = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(run.state.params)]; "
        "print(json.dumps([run.metrics, leaves, traces]))"
    )
    metrics, leaves, traces = python(program, bucket)
    assert traces
    expected = cbjax.load(tmp_path / "here")
    assert metrics == expected.metrics
    for found, leaf in zip(leaves, jax.tree.leaves(expected.state.params), strict=True):
        np.testing.assert_array_equal(np.float32(found), leaf)


def test_a_save_that_was_cut_short_in_a_bucket_is_set_aside_again_and_again(bucket):
    program = (
        "import json; from etils import epath; from cbjax.workdir.checkpoint import Checkpoints; "
        "folder, told = epath.Path('gs://bucket/cut'), []\n"
        "(folder / 'checksums' / '3.json').write_text('{}')\n"
        "for _ in range(2):\n"
        "    (folder / 'checkpoints' / '5' / 'state' / 'part').write_text('x')\n"
        "    Checkpoints(folder, told.append).close()\n"
        "found = [(folder / place / '5' / 'state' / 'part').exists() for place in ('checkpoints', 'damaged')]\n"
        "print(json.dumps([told, found]))"
    )
    told, found = python(program, bucket)
    line = "checkpoint 5 was not finished when its process ended: moved to gs://bucket/cut/damaged/5"
    assert told == [line, line] and found == [False, True]


def test_a_tree_of_images_in_a_bucket_tells_what_is_in_no_class_folder(bucket):
    program = (
        "import json; from etils import epath; from cbjax.data import files\n"
        "names = ('train/a/1.jpg', 'train/b/2.jpg', 'train/loose.png', 'train/.png', 'val/3.jpg', 'test/a/4.jpg')\n"
        "for name in names:\n"
        "    (epath.Path('gs://bucket/tree') / name).write_bytes(b'x')\n"
        "source = files.load_folder('gs://bucket/tree', 8)\n"
        "print(json.dumps([source.class_names, len(source.train), len(source.test), source.notes]))"
    )
    names, train, test, notes = python(program, bucket)
    assert (names, train, test) == (["a", "b"], 2, 1)
    assert notes == [
        "train: left out 1 image that is in no class folder, such as 'loose.png'",
        "val is not used, as it has no class folders; it holds 1 image '3.jpg'",
    ]


@pytest.mark.parametrize("command", [("sweep", "--config=digits_lt"), ("report",)])
def test_what_reads_many_runs_wants_local_folders(command, capsys):
    where = "--workdir=gs://bucket/runs" if command[0] == "sweep" else "gs://bucket/runs"
    with pytest.raises(SystemExit, match="2"):
        main([*command, where])
    assert "must be a local folder (copy a bucket first); got gs://bucket/runs" in capsys.readouterr().err


def test_a_folder_in_a_bucket_whose_name_is_a_pattern_is_not_taken_for_others(bucket):
    """What is deleted and moved in a* must not be what lies in ab."""
    program = (
        "import json; from cbjax.workdir.checkpoint import Checkpoints; from cbjax.host.storage import Place, as_path\n"
        "found = []\n"
        "for name in ('ab', 'a*', 'a[b]'):\n"
        "    folder = as_path(f'gs://bucket/odd/{name}')\n"
        "    for number in (1, 2):\n"
        "        (folder / 'checksums' / f'{number}.json').write_text('{\"best\": null}')\n"
        "        (folder / 'checkpoints' / str(number) / 'part').write_text(name)\n"
        "        (folder / 'checkpoints' / str(number) / 'commit_success.txt').write_text(name)\n"
        "    (folder / 'checkpoints' / '1' / 'sub' / 'part').write_text(name)\n"
        "    (folder / 'checkpoints' / '3' / 'part').write_text(name)\n"
        "    (folder / 'gone.txt').write_text(name)\n"
        "for name in ('a*', 'a[b]'):\n"
        "    folder, told = as_path(f'gs://bucket/odd/{name}'), []\n"
        "    checkpoints = Checkpoints(folder, told.append)\n"
        "    checkpoints.close()\n"
        "    (folder / 'checkpoints' / '1').rmtree()\n"
        "    (folder / 'checksums' / '1.json').unlink()\n"
        "    place = Place(folder)\n"
        "    (place.files / 'gone.txt').unlink()\n"
        "    place.send()\n"
        "    found += [told, checkpoints.steps()]\n"
        "from cbjax.data import sources\n"
        "photos = as_path('gs://bucket/photos [1]*')\n"
        "for name in ('train/ant/1', 'train/bee[2]/2', 'val/ant/3', 'val/bee[2]/4'):\n"
        "    (photos / f'{name}.png').write_text(name)\n"
        "train = sources.load('folder', root=str(photos), image_size=8).train\n"
        "found.append([train.images.read(position).decode() for position in range(2)])\n"
        "print(json.dumps(found))"
    )
    line = "checkpoint 3 was not finished when its process ended: moved to gs://bucket/odd/{}/damaged/3"
    photos = ["train/ant/1", "train/bee[2]/2"]
    assert python(program, bucket) == [[line.format("a*")], [2], [line.format("a[b]")], [2], photos]
    left = {name.removeprefix("odd/") for name in served(bucket, "odd/")}
    second = {"checkpoints/2/part", "checkpoints/2/commit_success.txt", "checksums/2.json"}
    first = {"checkpoints/1/part", "checkpoints/1/sub/part", "checkpoints/1/commit_success.txt", "checksums/1.json"}
    kept = {"ab/": first | second | {"checkpoints/3/part", "gone.txt"}}
    kept |= dict.fromkeys(("a*/", "a[b]/"), second | {"damaged/3/part", "damaged/.folder"})
    for folder, names in kept.items():
        assert {name.removeprefix(folder) for name in left if name.startswith(folder)} == names
