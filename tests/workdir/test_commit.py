"""The commit that a run notes is that of cbjax's own repository."""

import pathlib
import subprocess

from cbjax.workdir import environment


def test_a_repository_that_only_surrounds_the_installation_is_not_cbjax_s(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    installed = tmp_path / ".venv" / "site-packages" / "cbjax" / "workdir" / "environment.py"
    own = tmp_path / "cbjax" / "workdir" / "environment.py"
    for path in (installed, own):
        path.parent.mkdir(parents=True)
        path.touch()
    git("init", "-q")
    git("add", "cbjax")
    git("commit", "-qm", "first")
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert environment.commit() is None
    monkeypatch.setattr(environment, "__file__", str(own))
    monkeypatch.setenv("GIT_DIR", str(pathlib.Path(tmp_path, "elsewhere")))
    noted = environment.commit()
    monkeypatch.delenv("GIT_DIR")
    assert noted == git("rev-parse", "--short=12", "HEAD")
