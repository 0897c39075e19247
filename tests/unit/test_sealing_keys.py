"""Where keys come from, how they rotate, and what is said when they are not to be had."""

from __future__ import annotations

import base64
import os
import re
import stat
from pathlib import Path

import pytest

from bridge_core.errors import Fatal
from bridge_core.files import write_atomically
from bridge_core.key_files import check_key_files, read_key_file
from bridge_core.sealing import SealBroken, Sealer, keyring, open_sealer
from bridge_core.sealing.key_source import KeySource
from bridge_core.sealing.keyring import DataKey, Keyring
from bridge_core.sealing.sealer import SealFolder, new_data_key, rewrap

KEY = bytes(range(32))


def executable(path: Path, text: str) -> KeySource:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return KeySource.parse(f"exec:{path} given")


# -- key files


def test_a_key_file_that_others_could_read_or_exchange_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_atomically(path, KEY)
    assert read_key_file(path) == KEY
    check_key_files(path)
    check_key_files(tmp_path / "none")
    for mode in (0o640, 0o604, 0o620, 0o601):
        path.chmod(mode)
        for look in (read_key_file, check_key_files):
            with pytest.raises(Fatal, match=f"open to other users .mode {mode:04o}"):
                look(path)


def test_a_link_a_folder_and_a_pipe_are_no_key_files(tmp_path: Path) -> None:
    write_atomically(tmp_path / "key", KEY)
    (tmp_path / "link").symlink_to("key")
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, says in (("link", "is a link"), ("folder", "no plain file"), ("pipe", "no plain file")):
        with pytest.raises(Fatal, match=says):
            read_key_file(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_key_file_is_refused(tmp_path: Path) -> None:
    write_atomically(tmp_path / "key", KEY)
    os.chown(tmp_path / "key", 12345, 12345)
    with pytest.raises(Fatal, match="belongs to the user 12345"):
        read_key_file(tmp_path / "key")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_reads_the_keys_of_a_service_in_the_services_own_folder(tmp_path: Path) -> None:
    """As `bridgectl` does on a registry's machine, whose keys belong to a user that systemd made."""
    pki = tmp_path / "pki"
    pki.mkdir()
    write_atomically(pki / "key", KEY)
    os.chown(pki / "key", 12345, 12345)
    with pytest.raises(Fatal, match="belongs to the user 12345"):
        check_key_files(pki / "key")  # in a folder of root's: nobody's service
    os.chown(pki, 12345, 12345)
    check_key_files(pki / "key")
    assert read_key_file(pki / "key", of_service=True) == KEY
    with pytest.raises(Fatal, match="belongs to the user 12345"):
        read_key_file(pki / "key")
    os.chown(pki, 54321, 54321)
    with pytest.raises(Fatal, match="belongs to the user 12345"):
        check_key_files(pki / "key")


def test_a_file_too_long_for_a_key_is_refused(tmp_path: Path) -> None:
    write_atomically(tmp_path / "key", b"x" * 300)
    with pytest.raises(Fatal, match="longer than 256 bytes"):
        KeySource.parse(f"file:{tmp_path}/key").read({})


# -- sources of the key-encryption key


@pytest.mark.parametrize(
    "data", [KEY, KEY.hex().encode() + b"\n", base64.b64encode(KEY) + b"\n", b"\n" * 32], ids=len
)
def test_a_key_is_taken_raw_in_hex_and_in_base64(tmp_path: Path, data: bytes) -> None:
    write_atomically(tmp_path / "key", data)
    assert KeySource.parse(f"file:{tmp_path}/key").read({}) == (data if len(data) == 32 else KEY)


@pytest.mark.parametrize(
    "data", [b"", b"short", b"x" * 33, b"zz" * 32, KEY.hex().encode()[:-2], b"\xff" * 44]
)
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, data: bytes) -> None:
    write_atomically(tmp_path / "key", data)
    with pytest.raises(Fatal, match="holds no key of 32 bytes") as caught:
        KeySource.parse(f"file:{tmp_path}/key").read({})
    assert data.decode("latin1") not in str(caught.value).replace(str(tmp_path), "") or len(data) < 6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "none of them"),
        ("/etc/key", "none of them"),
        ("vault:key", "none of them"),
        ("file:", "none of them"),
        ("file:key", "begin with /"),
        ("credential:../key", "no path"),
        ("credential:..", "no path"),
        ("exec:prog", "begin with /"),
        ("exec:/prog 'unclosed", "cannot be split"),
    ],
)
def test_a_source_that_names_nothing_is_refused_with_the_ways_to_write_one(text: str, says: str) -> None:
    with pytest.raises(Fatal, match=re.escape(says)) as caught:
        KeySource.parse(text)
    assert "exec:/PROGRAM" in caught.value.hint


def test_a_credential_of_systemd_is_read_from_its_folder(tmp_path: Path) -> None:
    source = KeySource.parse("credential:bridge-kek")
    (tmp_path / "bridge-kek").write_bytes(KEY)
    (tmp_path / "bridge-kek").chmod(0o440)
    assert source.read({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == KEY
    with pytest.raises(Fatal, match="systemd gave this process none"):
        source.read({})
    with pytest.raises(Fatal, match="credential:bridge-kek cannot be read"):
        source.read({"CREDENTIALS_DIRECTORY": str(tmp_path / "none")})


def test_a_command_prints_the_key_and_gets_its_arguments(tmp_path: Path) -> None:
    source = executable(tmp_path / "get", f'test "$1" = given && echo {KEY.hex()}')
    assert source.read(os.environ) == KEY


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"echo {KEY.hex()}; echo {KEY.hex()} >&2; exit 3", "ended with status 3"),
        ("yes", "printed more than 256 bytes"),
        ("exec true", "holds no key"),
    ],
)
def test_a_command_that_fails_or_babbles_is_refused_without_its_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    with pytest.raises(Fatal, match=says) as caught:
        executable(tmp_path / "get", text).read(os.environ)
    said = capfd.readouterr()
    assert KEY.hex() not in str(caught.value) + said.out + said.err


@pytest.mark.parametrize("text", ["exec sleep 600", "sleep 600 &", "exec >&-; exec sleep 600"])
def test_a_command_that_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path, text: str) -> None:
    with pytest.raises(Fatal, match="gave no key within"):
        executable(tmp_path / "get", text).read(os.environ, limit_s=0.3)


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=f"exec:{tmp_path}/none cannot be read"):
        KeySource.parse(f"exec:{tmp_path}/none").read(os.environ)


# -- the keyring


def test_a_first_start_makes_keyring_and_key_and_later_ones_find_them(tmp_path: Path) -> None:
    where = SealFolder(tmp_path / "seal")
    sealed = open_sealer(where).seal(b"text", "test")
    assert open_sealer(where).open(sealed, "test") == b"text"
    for path in where.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {path.name for path in where.folder.iterdir()} == {"kek", "keyring"}


def test_a_new_data_key_seals_from_then_on_and_what_the_old_one_sealed_stays_readable(tmp_path: Path) -> None:
    where = SealFolder(tmp_path)
    earlier = open_sealer(where)
    old = earlier.seal(b"old", "test")
    new_data_key(where)
    now = open_sealer(where)
    new = now.seal(b"new", "test")
    assert (now.open(old, "test"), now.open(new, "test")) == (b"old", b"new")
    assert old[8:16] != new[8:16] == now.ring.active.id
    with pytest.raises(SealBroken, match="which the keyring does not hold"):
        earlier.open(new, "test")


def test_another_kek_rewrites_the_keyring_alone(tmp_path: Path) -> None:
    where = SealFolder(tmp_path)
    sealed = open_sealer(where).seal(b"text", "test")
    before = {name: (tmp_path / name).read_bytes() for name in ("kek", "keyring")}
    rewrap(where)
    after = {name: (tmp_path / name).read_bytes() for name in ("kek", "keyring")}
    assert before["kek"] != after["kek"]
    assert before["keyring"] != after["keyring"]
    assert {path.name for path in tmp_path.iterdir()} == {"kek", "keyring"}
    assert open_sealer(where).open(sealed, "test") == b"text"
    with pytest.raises(SealBroken):
        keyring.decode(after["keyring"], before["kek"])


def test_a_kek_moves_from_its_file_to_another_source(tmp_path: Path) -> None:
    where = SealFolder(tmp_path)
    sealed = open_sealer(where).seal(b"text", "test")
    source = executable(tmp_path / "get", f"echo {KEY.hex()}")
    rewrap(where, source)
    assert open_sealer(SealFolder(tmp_path, source)).open(sealed, "test") == b"text"
    with pytest.raises(Fatal, match="does not open with the key-encryption key of file:"):
        open_sealer(where)
    with pytest.raises(Fatal, match="not ours to replace"):
        rewrap(SealFolder(tmp_path, source))


@pytest.mark.parametrize("written", [False, True], ids=["keyring not yet written", "keyring written"])
def test_a_rotation_that_was_cut_off_opens_with_whichever_key_fits(tmp_path: Path, written: bool) -> None:
    where = SealFolder(tmp_path)
    sealer = open_sealer(where)
    sealed = sealer.seal(b"text", "test")
    write_atomically(tmp_path / "kek.next", KEY)
    if written:
        keyring.save(where.keyring, sealer.ring, KEY, os.urandom(24))
    assert open_sealer(where).open(sealed, "test") == b"text"
    assert {path.name for path in tmp_path.iterdir()} == {"kek", "keyring"}
    assert ((tmp_path / "kek").read_bytes() == KEY) is written


def test_a_cut_off_rotation_beside_a_damaged_keyring_loses_neither_key(tmp_path: Path) -> None:
    where = SealFolder(tmp_path)
    open_sealer(where)
    write_atomically(tmp_path / "kek.next", KEY)
    write_atomically(where.keyring, b"rubbish")
    with pytest.raises(Fatal, match="is damaged"):
        open_sealer(where)
    assert {path.name for path in tmp_path.iterdir()} == {"kek", "kek.next", "keyring"}


def test_a_missing_or_other_kek_is_refused_by_name_and_never_made_anew(tmp_path: Path) -> None:
    where = SealFolder(tmp_path)
    open_sealer(where)
    ring = where.keyring.read_bytes()
    (tmp_path / "kek").unlink()
    with pytest.raises(Fatal, match=f"file:{tmp_path}/kek cannot be read") as caught:
        open_sealer(where)
    assert "restore it" in caught.value.hint
    write_atomically(tmp_path / "kek", KEY)
    with pytest.raises(Fatal, match=f"keyring {tmp_path}/keyring does not open"):
        open_sealer(where)
    assert where.keyring.read_bytes() == ring


def test_no_byte_of_a_keyring_can_be_changed_unseen() -> None:
    ring = Keyring((DataKey(b"a" * 8, KEY, 1.0),))
    data = keyring.encode(ring, KEY, bytes(24))
    assert keyring.decode(data, KEY) == ring
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x20
        with pytest.raises(SealBroken):
            keyring.decode(bytes(changed), KEY)


def test_a_key_does_not_show_itself_when_printed() -> None:
    ring = Keyring((DataKey(b"a" * 8, KEY, 1.0),))
    assert repr(KEY) not in repr(ring) + repr(Sealer(ring))
    assert "DataKey(6161616161616161)" in repr(ring)
