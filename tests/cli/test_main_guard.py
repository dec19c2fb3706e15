"""Scripts that train with worker processes, which import them."""

import runpy

import pytest

from cbjax.config import ConfigError

CHECK = "from cbjax.training.check_process import check_main_guard\n"


@pytest.mark.parametrize(
    "script",
    [
        "if __name__ == '__main__':\n    check_main_guard(1)\n",
        "def main():\n    check_main_guard(2)\nif '__main__' == __name__:\n    main()\n",
        "if __name__ != '__main__':\n    raise SystemExit\ncheck_main_guard(1)\n",
        "check_main_guard(0)\n",
    ],
)
def test_a_script_with_a_main_guard_may_have_workers(tmp_path, script):
    path = tmp_path / "mine.py"
    path.write_text(CHECK + script)
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("script", ["check_main_guard(3)\n", "def main():\n    check_main_guard(3)\nmain()\n"])
def test_workers_without_a_main_guard_are_refused_with_its_text(tmp_path, script):
    path = tmp_path / "mine[1].py"
    path.write_text(CHECK + script + "if __name__ == '__main__':\n    pass\n")
    with pytest.raises(ConfigError, match="each worker process imports") as refused:
        runpy.run_path(str(path), run_name="__main__")
    said = str(refused.value)
    assert "data.workers=3" in said and str(path) in said and f"line {len(script.splitlines()) + 1} " in said
    assert 'if __name__ == "__main__":' in said
