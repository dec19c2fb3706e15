"""The list of skipped images, alone and of several processes."""

from cbjax.host.writers import read_rows
from cbjax.parallel import processes
from cbjax.workdir import bad_images
from cbjax.workdir.bad_images import BadImages


def images(folder):
    return [row["image"] for row in read_rows(folder / "bad_images.jsonl")]


def test_each_image_is_listed_once_also_by_the_next_process(tmp_path, capsys):
    first = BadImages(tmp_path)
    for name in ("a", "b", "a"):
        first.add(name, "it is cut")
    assert images(tmp_path) == ["a", "b"]
    second = BadImages(tmp_path)
    for name in ("b", "c"):
        second.add(name, "it is cut")
    assert images(tmp_path) == ["a", "b", "c"]
    assert capsys.readouterr().out.splitlines() == [
        f"skipped {name}: it is cut, listed in {tmp_path / 'bad_images.jsonl'}" for name in "abc"
    ]


def test_without_a_work_directory_they_are_only_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = BadImages(None)
    found.add("a", "it is cut")
    found.add("a", "it is cut")
    assert capsys.readouterr().out == "skipped a: it is cut\n"
    assert not list(tmp_path.iterdir())


def test_several_processes_share_what_they_found(tmp_path, monkeypatch):
    """Two lists in one process, which take each other's findings."""
    both = [BadImages(tmp_path, written=lambda: sent.append(1)) for _ in range(2)]
    sent, exchanged = [], []
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(bad_images.processes, "from_all", lambda found: exchanged[-1])
    for round_, (ours, theirs) in enumerate([("ab", "bc"), ("a", "d"), ("", "")]):
        for one, names in zip(both, (ours, theirs), strict=True):
            for name in names:
                one.add(name, "it is cut")
        exchanged.append([dict(one._found) for one in both])
        for index, one in enumerate(both):
            monkeypatch.setattr(processes, "is_first", lambda index=index: index == 0)
            one.share()
        assert images(tmp_path) == [["a", "b", "c"], ["a", "b", "c", "d"], ["a", "b", "c", "d"]][round_]
    assert len(sent) == 2
