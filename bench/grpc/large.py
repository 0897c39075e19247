"""One large call: `python -m bench.grpc.large PORT FOLDER BYTES`."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import grpc

from bridge_wire.v1 import inference_pb2_grpc
from bridge_wire.v1.inference_pb2 import InferenceRequest


def main(port: str, folder: Path, size: int) -> None:
    image = base64.b64encode(os.urandom(size // 4 * 3))
    body = b'{"messages":[{"role":"user","content":"?","images":["%b"]}]}' % image
    pem = [(folder / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem")]
    credentials = grpc.ssl_channel_credentials(*pem)
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        request = InferenceRequest(model_name="tiny", input_data=body, metadata={"api": "chat"})
        if not inference_pb2_grpc.ModelInferenceStub(channel).Predict(request, timeout=60).done:
            raise RuntimeError("no whole answer")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
