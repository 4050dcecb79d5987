"""The headers of a model's safetensors, held against its config and the files' sizes: what a download lacks, in
milliseconds at any size."""

from pathlib import Path


def check_weights(folder: Path, parameters: int) -> None:
    """Checks that the files of a model hold at least so many weights, each file to its end; no weight is read.

    Raises ValueError, naming the file, where they do not.
    """
    from huggingface_hub import get_local_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        files = get_local_safetensors_metadata(folder).files_metadata
    except NotASafetensorsRepoError as error:
        raise ValueError(f"{folder} has no weights (model.safetensors, or its index and shards)") from error
    except (SafetensorsParsingError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} has weights that cannot be read: {error}") from error
    for name, metadata in files.items():
        with (folder / name).open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        expected = 8 + header + max((tensor.data_offsets[1] for tensor in metadata.tensors.values()), default=0)
        if (size := (folder / name).stat().st_size) != expected:
            raise ValueError(f"{folder / name} has {size:,} bytes, and its header is for {expected:,}")
    if (held := sum(sum(metadata.parameter_count.values()) for metadata in files.values())) < parameters:
        raise ValueError(f"{folder} has {held:,} weights, and its config is for {parameters:,}")
