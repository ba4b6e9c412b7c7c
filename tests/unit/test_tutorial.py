"""`make tutorial` runs the page as it stands; here, that it can be run at all."""

from __future__ import annotations

import subprocess

import pytest

from tests.blocks import shell_blocks
from tests.tutorial import PAGE, script

VALUES = {"REPOSITORY": "/a clone", "TARGET": "/a model", "PORT": "4711"}


def test_every_block_becomes_a_part_of_one_script_that_bash_can_read() -> None:
    blocks = shell_blocks(PAGE)
    text = script(blocks, VALUES, "borrow-it")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert "\ncd s2d-ray\nborrow-it\n" in text
    for block in blocks[1:]:  # the first has the variables
        assert all(f"\n{line}" in text for line in block.splitlines())


def test_the_reader_s_values_stand_where_the_page_has_its_own() -> None:
    text = script(["REPOSITORY=x\nTARGET=y\nPORT=1\ncd s2d-ray\n"], VALUES, "true")
    for line in ("REPOSITORY='/a clone'", "TARGET='/a model'", "PORT=4711"):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize("blocks", [[], ["cd s2d-ray\ncd s2d-ray\n"]])
def test_a_page_without_them_or_with_two_is_refused(blocks: list[str]) -> None:
    with pytest.raises(ValueError, match=PAGE):
        script([*blocks, "REPOSITORY=x\nTARGET=y\nPORT=1\n"], VALUES, "true")


def test_the_first_command_that_fails_ends_it() -> None:
    head = "REPOSITORY=x\nTARGET=y\nPORT=1\n# cloned\n"
    text = script([head, "cd s2d-ray\n", "echo reached\n"], VALUES, "true")
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 1  # there is no such folder
    assert "\nreached" not in done.stdout
