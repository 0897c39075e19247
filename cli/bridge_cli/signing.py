"""What `bridgectl models sign` does: asks nodes what is to be signed, signs it, and brings it to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from bridge_cli.models_remote import ask_node, chosen, nodes_having
from bridge_core import model_answers
from bridge_core.errors import BridgeError, Fatal
from bridge_core.files import write_atomically
from bridge_core.key_files import read_key_file
from bridge_core.model_answers import ModelAsked, Signable, SignatureBrought, SignatureTaken
from bridge_core.model_signing.bundle import read_bundle, write_bundle
from bridge_core.model_signing.content import MOST_BUNDLE, Content, content_of
from bridge_core.model_signing.fault import BadSignature
from bridge_core.model_signing.statement import MANIFEST, check_statement, write_statement
from bridge_core.names import display_or_same

if TYPE_CHECKING:
    from bridge_cli.access import Access
    from bridge_core.snapshot import Node, Snapshot

_MOST_PEM: Final = 1 << 20


class There(msgspec.Struct, frozen=True):
    """A model that is to be signed: the same at all of these nodes."""

    name: str
    content: Content
    nodes: tuple[Node, ...]


class Signed(msgspec.Struct, omit_defaults=True):
    """What came of it at a node: the model's digest now, or why it has no signature."""

    node: str
    digest: str = ""
    fault: str = ""


async def signable(to: Access, snapshot: Snapshot, name: str, wanted: list[str]) -> There:
    """What is to be signed of a model, at the nodes that have it, or at those `wanted`.

    Raises:
        BridgeError: nobody has it, a node does not answer, or they have different ones.
    """
    nodes = chosen(snapshot, wanted or nodes_having(snapshot, name))
    found: dict[str, list[Node]] = {}
    contents: dict[str, Content] = {}
    for node in nodes:
        try:
            said = await ask_node(
                to, snapshot, node, path=model_answers.SIGNABLE, asked=ModelAsked(name), kind=Signable
            )
            content = content_of(said.content)
        except BridgeError as fault:
            raise BridgeError(f"{node.name}: {fault}", hint="leave it out by --nodes") from fault
        found.setdefault(content.digest, []).append(node)
        contents[content.digest] = content
    if len(found) > 1:
        groups = "; ".join(
            f"{', '.join(one.name for one in some)} {digest[:12]}" for digest, some in sorted(found.items())
        )
        raise Fatal(
            f"nodes have different models by the name {name}: {groups}",
            hint="say which by --nodes, or pull it again where it is behind",
        )
    ((digest, some),) = found.items()
    return There(name, contents[digest], tuple(some))


def make_signature(there: There, key: Path, certificate: Path | None) -> bytes:
    """A signature of the model with a key.

    Raises:
        BridgeError: the key or its certificate cannot be used.
    """
    from bridge_core.model_signing.keys import private_key, signed_with

    try:
        own = private_key(read_key_file(key))
    except OSError as fault:
        raise Fatal(f"{key} cannot be read: {fault.strerror}", hint="see --key") from fault
    except BadSignature as fault:
        raise Fatal(f"{key}: {fault.message}", hint=fault.hint) from fault
    chain = () if certificate is None else _chain(certificate, own.public_key())
    payload = write_statement(display_or_same(there.name), there.content)
    return write_bundle(signed_with(own, payload, chain))


def _chain(path: Path, key: object) -> tuple[bytes, ...]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        found = x509.load_pem_x509_certificates(_read(path, _MOST_PEM))
    except ValueError as fault:
        raise Fatal(f"{path} holds no certificate in PEM", hint="see --certificate") from fault
    if found[0].public_key() != key:
        raise Fatal(f"the first certificate in {path} is not of that key", hint="put the key's own first")
    return tuple(one.public_bytes(Encoding.DER) for one in found)


def read_signature(there: There, path: Path) -> bytes:
    """A signature that was made elsewhere.

    Raises:
        Fatal: it is none, or not of this model.
    """
    data = _read(path, MOST_BUNDLE)
    try:
        check_statement(read_bundle(data).payload, there.content)
    except BadSignature as fault:
        hint = fault.hint or "--manifest-out writes what is to be signed"
        raise Fatal(f"{path}: {fault.message}", hint=hint) from fault
    return data


def write_out(there: There, folder: Path) -> None:
    """Writes what is to be signed into a folder. Raises Fatal."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / MANIFEST, there.content.data, mode=0o644)
    except OSError as fault:
        raise Fatal(
            f"{folder} cannot be written: {fault.strerror}", hint="name another --manifest-out"
        ) from fault


async def bring(to: Access, snapshot: Snapshot, there: There, bundle: bytes) -> list[Signed]:
    """Has each node keep the signature with its model; what came of it, by node."""
    done = []
    asked = SignatureBrought(there.name, there.content.digest, bundle)
    for node in there.nodes:
        try:
            taken = await ask_node(
                to, snapshot, node, path=model_answers.SIGN, asked=asked, kind=SignatureTaken
            )
            done.append(Signed(node.name, taken.digest))
        except BridgeError as fault:
            done.append(Signed(node.name, fault=str(fault)))
    return done


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as fault:
        raise Fatal(f"{path} cannot be read: {fault.strerror}", hint="see --help") from fault
    if len(data) > most:
        raise Fatal(f"{path} is longer than {most} bytes", hint="see what lies there")
    return data
