"""Files are written whole or not at all; a digest tells whether one of them changed."""

from pathlib import Path

import pytest

from vaebook_runner.files import digest, files_below, printable, write_atomically


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, "old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_is_written_the_same_on_every_system(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "σ\nb\n")
    assert (tmp_path / "a").read_bytes() == "σ\nb\n".encode()


def test_a_digest_changes_with_a_name_a_content_and_the_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("b")
    digests = {digest(paths) for paths in ([one, two], [two, one], [one], [two], [], [one, tmp_path / "missing"])}
    one.write_text("c")
    assert len(digests | {digest([one, two])}) == 7
    one.write_text("a")
    assert digest([one, two]) == digest([str(one), str(two)]) in digests


def test_the_same_files_in_another_folder_have_the_same_digest(tmp_path: Path) -> None:
    digests = set()
    for folder in ("a", "b"):
        (tmp_path / folder / "module").mkdir(parents=True)
        (tmp_path / folder / "module" / "x.py").write_text("1")
        digests.add(digest(files_below(tmp_path / folder)))
    assert len(digests) == 1


def test_files_below_leaves_compiled_copies_out(tmp_path: Path) -> None:
    for name in ("b/c.py", "a.py", "b/__pycache__/c.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert files_below(tmp_path) == [tmp_path / "a.py", tmp_path / "b" / "c.py"]
    assert files_below(tmp_path / "missing") == []


def test_what_is_shown_holds_no_control_characters() -> None:
    assert printable("σ = 1\n\x1b[31mred") == "σ = 1\\n\\x1b[31mred"
