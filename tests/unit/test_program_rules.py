"""What counts as an engine's program of what the kernel says is mapped."""

from __future__ import annotations

from bridge_agent.models.program_rules import MOST_FILES, MOST_PATH, code_of, together

MAPS = """\
55d0c8a00000-55d0c8a3c000 r--p 00000000 fe:00 393733                     /opt/engine/llama-server
55d0c8a3c000-55d0cc000000 r-xp 0003c000 fe:00 393733                     /opt/engine/llama-server
55d0ce000000-55d0ce400000 rw-p 00000000 00:00 0                          [heap]
7f1000000000-7f1323800000 r--s 00000000 fe:00 411                        /models/blobs/sha256-00
7f1323800000-7f1343800000 r-xp 02200000 fe:00 9126                       /usr/lib/libcublasLt.so.13
7f1343800000-7f1343900000 r-xp 00000000 fe:00 9127                       /usr/lib/with a blank.so
7f1343900000-7f1343a00000 r-xp 00000000 fe:00 9128                       /usr/lib/old.so (deleted)
7f1343a00000-7f1343b00000 r-xp 00000000 fe:00 9129                       /usr/lib/of\\012two lines.so
7f1343b00000-7f1343c00000 rwxs 00000000 00:05 12                         /dev/zero
7f1343c00000-7f1343d00000 r-xp 00000000 00:01 2048                       /memfd:jit
7ffd3b5c1000-7ffd3b5c3000 r-xp 00000000 00:00 0                          [vdso]
7ffd3b5c3000-7ffd3b5c4000 --xp 00000000 00:00 0                          /no/inode.so
"""


def test_code_that_lies_in_files_counts_and_nothing_else() -> None:
    wanted = ["/opt/engine/llama-server", "/usr/lib/libcublasLt.so.13", "/usr/lib/with a blank.so"]
    assert code_of(MAPS) == wanted


def test_a_path_has_a_bound() -> None:
    line = "1-2 r-xp 0 fe:00 1 {}\n"
    fits, longer = "/" + "a" * (MOST_PATH - 1), "/" + "a" * MOST_PATH
    assert code_of(line.format(fits) + line.format(longer)) == [fits]


def test_what_is_seen_now_goes_first_and_the_list_has_a_bound() -> None:
    assert together(["/a", "/b"], ["/c", "/a", "/c"]) == ("/c", "/a", "/b")
    kept = together((f"/old{number}" for number in range(MOST_FILES)), ["/new"])
    assert len(kept) == MOST_FILES
    assert kept[:2] == ("/new", "/old0")
