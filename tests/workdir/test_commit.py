"""The commit that a run notes is that of cbjax's own repository."""

import pathlib
import subprocess

from cbjax.workdir import files


def test_a_repository_that_only_surrounds_the_installation_is_not_cbjax_s(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    installed = tmp_path / ".venv" / "site-packages" / "cbjax" / "workdir" / "files.py"
    own = tmp_path / "cbjax" / "workdir" / "files.py"
    for path in (installed, own):
        path.parent.mkdir(parents=True)
        path.touch()
    git("init", "-q")
    git("add", "cbjax")
    git("commit", "-qm", "first")
    monkeypatch.setattr(files, "__file__", str(installed))
    assert files._commit() is None
    monkeypatch.setattr(files, "__file__", str(own))
    monkeypatch.setenv("GIT_DIR", str(pathlib.Path(tmp_path, "elsewhere")))
    noted = files._commit()
    monkeypatch.delenv("GIT_DIR")
    assert noted == git("rev-parse", "--short=12", "HEAD")
