"""Folders that appear whole, or not at all."""

from __future__ import annotations

import pytest

from episome.errors import InputFileError
from episome.io import folder_beside


def test_a_folder_is_there_when_it_is_complete(tmp_path):
    place = tmp_path / "cells.zarr"

    with folder_beside(place) as folder:
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "b.txt").write_text("one")
        assert not place.exists()

    assert (place / "a" / "b.txt").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["cells.zarr"]


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    place = tmp_path / "cells.zarr"
    place.mkdir()
    (place / "old.txt").write_text("old")

    def fail() -> None:
        with folder_beside(place, overwrite=True) as folder:
            folder.mkdir()
            (folder / "new.txt").write_text("new")
            raise ValueError

    with pytest.raises(ValueError, match=""):
        fail()
    assert [p.name for p in place.iterdir()] == ["old.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["cells.zarr"]
    with pytest.raises(InputFileError, match="E-F26"), folder_beside(place) as folder:
        folder.mkdir()
    with folder_beside(place, overwrite=True) as folder:
        folder.mkdir()
    assert list(place.iterdir()) == []
