"""`tf.train.Example` without TensorFlow: the message's own wire format through protobuf.

The message types are declared here in a descriptor pool of their own, so that they never meet TensorFlow's copy of
them when both are loaded in one process.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from scotd_jax.errors import InputError

Values = Sequence[bytes] | Sequence[int] | Sequence[float] | np.ndarray

_Field = descriptor_pb2.FieldDescriptorProto
_LISTS = (  # message, field of Feature, type of its values
    ("BytesList", "bytes_list", _Field.TYPE_BYTES),
    ("FloatList", "float_list", _Field.TYPE_FLOAT),
    ("Int64List", "int64_list", _Field.TYPE_INT64),
)


def _message_type() -> type[message.Message]:
    """The class of tf.train.Example: features.feature is a map from names to one of three lists."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="records", syntax="proto3")
    feature = descriptor_pb2.DescriptorProto(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, field, kind) in enumerate(_LISTS, start=1):
        file.message_type.add(name=name).field.add(name="value", number=1, label=_Field.LABEL_REPEATED, type=kind)
        feature.field.add(
            name=field,
            number=number,
            label=_Field.LABEL_OPTIONAL,
            type=_Field.TYPE_MESSAGE,
            type_name=f".records.{name}",
            oneof_index=0,
        )
    file.message_type.append(feature)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
    to_message = {"type": _Field.TYPE_MESSAGE, "number": 1}
    entry.field.add(
        name="value", label=_Field.LABEL_OPTIONAL, **{**to_message, "number": 2}, type_name=".records.Feature"
    )
    features.field.add(
        name="feature", label=_Field.LABEL_REPEATED, **to_message, type_name=".records.Features.FeatureEntry"
    )
    example = file.message_type.add(name="Example")
    example.field.add(name="features", label=_Field.LABEL_OPTIONAL, **to_message, type_name=".records.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("records.Example"))


_Example = _message_type()


def encode(features: Mapping[str, Values]) -> bytes:
    """Serialized tf.train.Example; equal features give equal bytes, in whatever order they come.

    A list of bytes becomes a bytes_list, one of whole numbers (or an empty one) an int64_list, one of floats a
    float_list. Raises TypeError on anything else.
    """
    example = _Example()
    for name, values in features.items():
        values = values.tolist() if isinstance(values, np.ndarray) else values
        feature = example.features.feature[name]
        if all(isinstance(v, int) for v in values):
            feature.int64_list.value.extend(values)
        elif all(isinstance(v, bytes) for v in values):
            feature.bytes_list.value.extend(values)
        elif all(isinstance(v, float) for v in values):
            feature.float_list.value.extend(values)
        else:
            raise TypeError(f"feature {name!r}: expected all bytes, all int or all float, found {values!r:.80}")
    return example.SerializeToString(deterministic=True)


def decode(data: bytes, where: str) -> dict[str, list[bytes] | list[int] | list[float]]:
    """The features of a serialized tf.train.Example. `where` ("FILE record 3") opens the message of the InputError."""
    example = _Example()
    try:
        example.ParseFromString(data)
    except message.DecodeError as error:
        raise InputError(f"{where}: not a tf.train.Example ({error}): build the corpus again") from None
    features = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        features[name] = list(getattr(feature, kind).value) if kind else []
    return features
