"""Encodes and decodes `tf.train.Example` without TensorFlow, through protobuf.

The message types live in a descriptor pool of their own, so that they do not clash with TensorFlow's when both are
loaded in one process.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from scotd_jax.errors import InputError

Values = Sequence[bytes] | Sequence[int] | Sequence[float] | np.ndarray

_Field = descriptor_pb2.FieldDescriptorProto
_LISTS = (  # message, field of Feature, type of the values
    ("BytesList", "bytes_list", _Field.TYPE_BYTES),
    ("FloatList", "float_list", _Field.TYPE_FLOAT),
    ("Int64List", "int64_list", _Field.TYPE_INT64),
)


def _message_type() -> type[message.Message]:
    """Builds the message class of tf.train.Example, whose `features.feature` maps each name to one of three lists."""
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
    _add_message_field(entry, "value", 2, _Field.LABEL_OPTIONAL, ".records.Feature")
    _add_message_field(features, "feature", 1, _Field.LABEL_REPEATED, ".records.Features.FeatureEntry")
    example = file.message_type.add(name="Example")
    _add_message_field(example, "features", 1, _Field.LABEL_OPTIONAL, ".records.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("records.Example"))


def _add_message_field(
    parent: descriptor_pb2.DescriptorProto, name: str, number: int, label: int, type_name: str
) -> None:
    parent.field.add(name=name, number=number, label=label, type=_Field.TYPE_MESSAGE, type_name=type_name)


_Example = _message_type()


def encode(features: Mapping[str, Values]) -> bytes:
    """Serializes features to a tf.train.Example. Equal features give equal bytes, in any order.

    Args:
      features: values by name: all bytes (bytes_list), all floats (float_list), or all integers (int64_list). An empty
        list is an int64_list.

    Raises:
      TypeError: if a list contains other values, or values of several types.
    """
    example: Any = _Example()
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
    """Parses a serialized tf.train.Example.

    Args:
      data: the serialized message.
      where: file and record, the prefix of the error message.

    Returns:
      The features by name.

    Raises:
      InputError: if `data` is not a tf.train.Example.
    """
    example: Any = _Example()
    try:
        example.ParseFromString(data)
    except message.DecodeError as error:
        raise InputError(f"{where}: not a tf.train.Example ({error}): build the corpus again") from None
    features = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        features[name] = list(getattr(feature, kind).value) if kind else []
    return features
