"""What agents answer admins about the models on their disks, and what admins ask them to do with these.

| page of the peer listener | who | what |
|---|---|---|
| `POST /bridge/models/pull` | operators | `ModelAsked`; Ollama's records of a pull, one a line |
| `POST /bridge/models/warm` | operators | `ModelAsked`; records of the same shape, the last one `success` |
| `POST /bridge/models/rm` | operators | `ModelAsked`; a `Removed` |
| `POST /bridge/models/publish` | operators | `ModelAsked`; records as of a pull, the last one `success` |
| `POST /bridge/models/unpublish` | operators | `ModelAsked`; a record for what goes, the last one `success` |
| `POST /bridge/models/shared` | all admins | `ModelAsked`, which says nothing; a `SharedSaid` |
| `POST /bridge/models/verify` | all admins | `ModelAsked`, empty for all models; a `BlobChecked` a line |
| `POST /bridge/models/signable` | operators | `ModelAsked`; a `Signable` |
| `POST /bridge/models/sign` | operators | `SignatureBrought`; a `SignatureTaken` |
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

from bridge_core.bounds import MAX_REASON, Count, Name, Names, Text

Reason: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_REASON)]

PULL: Final = "/bridge/models/pull"
WARM: Final = "/bridge/models/warm"
RM: Final = "/bridge/models/rm"
VERIFY: Final = "/bridge/models/verify"
SIGNABLE: Final = "/bridge/models/signable"
SIGN: Final = "/bridge/models/sign"
PUBLISH: Final = "/bridge/models/publish"
UNPUBLISH: Final = "/bridge/models/unpublish"
SHARED: Final = "/bridge/models/shared"


class ModelAsked(msgspec.Struct, frozen=True):
    """What is to be done.

    Attributes:
        model: Its name.
        insecure: Its registry may be asked without TLS.
        last_copy: It may be removed where no other node has it, too.
        dry_run: It is only said what would be done.
    """

    model: Name = ""
    insecure: bool = False
    last_copy: bool = False
    dry_run: bool = False


class Removed(msgspec.Struct, frozen=True):
    """What came of a removal: how many bytes are free again, or why it stays."""

    freed: Count = 0
    refused: Text = ""


class BlobChecked(msgspec.Struct, frozen=True):
    """A blob as it was read: whose it is, and what is wrong with it; empty where nothing is.

    Attributes:
        model: A model that it is a part of.
        digest: Its digest.
        size: Bytes of its text.
        fault: What is wrong.
        sealed: It lies on the disk sealed.
        of_manifest: It is said of the model's manifest and its signatures, which policies ask for.
        signed: Whose signatures those are.
    """

    model: Name
    digest: Text
    size: Count = 0
    fault: Reason = ""
    sealed: bool = False
    of_manifest: bool = False
    signed: Text = ""


class Signable(msgspec.Struct, frozen=True):
    """What of a model is to be signed.

    Attributes:
        digest: Of the model as it lies there.
        content: Its manifest without signatures.
        signatures: How many it has.
    """

    digest: Text
    content: bytes
    signatures: Count = 0


class SignatureBrought(msgspec.Struct, frozen=True):
    """A signature for a model.

    Attributes:
        model: Its name.
        content: The digest of the content that is signed.
        bundle: The signature's file.
    """

    model: Name
    content: Text
    bundle: bytes


class SignatureTaken(msgspec.Struct, frozen=True):
    """The model has it now, and therefore another digest."""

    digest: Text


class SharedCounts(msgspec.Struct, frozen=True):
    """What a node had of its shared storage since its agent began.

    Attributes:
        blobs: That came from there whole.
        bytes: Read there.
        lacked: Blobs that were asked for and are not there.
        wrong: Times that a blob there was found to be wrong.
        faults: Times that it did not answer.
        known_wrong: Blobs that lie there and are known to be wrong.
    """

    blobs: Count = 0
    bytes: Count = 0
    lacked: Count = 0
    wrong: Count = 0
    faults: Count = 0
    known_wrong: Count = 0


class SharedSaid(msgspec.Struct, frozen=True):
    """How a node's shared storage stands.

    Attributes:
        path: Where it is mounted; empty: the node has none.
        publishes: The node may write there.
        fault: Why it is away; empty: it answers.
        hanging: Reads and writes that hang there.
        counts: What was had of it.
        models: What lies there, as listed last.
    """

    path: Text = ""
    publishes: bool = False
    fault: Text = ""
    hanging: Count = 0
    counts: SharedCounts = SharedCounts()
    models: Names = ()
