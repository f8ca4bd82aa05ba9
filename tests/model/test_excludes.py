from __future__ import annotations

import fnmatch

import pytest

from agent.errors import UsageError
from agent.model.excludes import SITE_FILE, exclude, site_excludes
from agent.model.tree import MemoryTree


def test_a_glob_fits_from_the_root_or_in_every_directory() -> None:
    rooted, anywhere = exclude("/srv/scratch/", "--exclude").path, exclude("*.iso", "--exclude").path
    assert fnmatch.fnmatchcase("/srv/scratch", rooted) and not fnmatch.fnmatchcase("/mnt/srv/scratch", rooted)
    assert fnmatch.fnmatchcase("/a/b/c.iso", anywhere) and fnmatch.fnmatchcase("/c.iso", anywhere)
    assert not fnmatch.fnmatchcase("/srv/my_modules", exclude("modules", "--exclude").path)


def test_the_file_of_the_site() -> None:
    text = b"# what nobody needs\n\n  /srv/scratch/*  \n\\#odd\nname with blanks\n"
    found = site_excludes(MemoryTree({SITE_FILE: text}))
    assert [each.path for each in found] == ["/srv/scratch/*", "*/\\#odd", "*/name with blanks"]
    assert {each.reason for each in found} == {"excluded by /etc/regraft/exclude"}
    assert site_excludes(MemoryTree({})) == ()


@pytest.mark.parametrize("glob", ["", "/", "*", "/*", "/*/", "**"])
def test_a_glob_that_leaves_nothing_is_refused(glob: str) -> None:
    with pytest.raises(UsageError, match="excludes everything"):
        exclude(glob, "--exclude")
