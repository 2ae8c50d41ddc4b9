"""A model for MLServer, which runs it in an environment of its own: the brightness of vertical stripes."""

import io

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceResponse
from PIL import Image


class Stripes(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        inputs = {entry.name: entry for entry in payload.inputs}
        images, n_classes = inputs["image"], 3
        if "texts" in inputs:
            n_classes = len(StringCodec.decode_input(inputs["texts"]))
        if images.datatype == "BYTES":
            files = Base64Codec.decode_input(images)
            pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
        else:
            pixels = NumpyCodec.decode_input(images)
        if pixels.shape[1] == 3:
            pixels = np.rint(np.moveaxis(pixels, 1, 3).astype(float) * 255)
        stripes = np.array_split(pixels.mean(axis=3) / 255, n_classes, axis=2)
        scores = np.stack([stripe.mean(axis=(1, 2)) for stripe in stripes], axis=1)
        outputs = [NumpyCodec.encode_output(output.name, scores) for output in payload.outputs]
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=outputs)
