"""Opens files of object stores through fsspec. Errors say their kind only, because their texts may hold credentials."""

from typing import Any

from prefixvlm.data.web import MissingError, Opened, TransientError, without_query

NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")  # of botocore


class _StoreFile:
    """A file of a store, whose errors become TransientError by their kind: their texts may hold credentials."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self.file.read(size)
        except Exception as error:  # each store raises its own
            raise TransientError(type(error).__name__) from error
        return data

    def __enter__(self) -> "_StoreFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def open_store(url: str, timeout: float) -> Opened:
    """Open a file of a store. Raises MissingError, TransientError, or ValueError if a package is missing."""
    import fsspec

    scheme = url.partition("://")[0]
    try:
        files, path = fsspec.core.url_to_fs(url, **(_s3_options(timeout) if scheme == "s3" else {}))
        if scheme == "s3":
            files.retries = 1  # it has no option for it; fsspec keeps one instance for these options
        return Opened(_StoreFile(files.open(path, "rb")), files.info(path).get("size"))
    except ImportError as error:
        package = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(scheme, "its fsspec package")
        extra = "'prefixvlm[s3]'" if scheme == "s3" else package
        raise ValueError(f"{scheme}:// URLs need {package}, which is not installed: pip install {extra}") from error
    except (FileNotFoundError, PermissionError) as error:
        raise MissingError(
            f"{without_query(url)}: {type(error).__name__}; correct data.shards or its credentials"
        ) from error
    except Exception as error:  # each store raises its own errors, and their texts may hold credentials
        if type(error).__name__ in NO_CREDENTIALS:
            raise MissingError(
                f"{without_query(url)}: {type(error).__name__}; set credentials in the environment (AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY) or in ~/.aws, or FSSPEC_S3='{\"anon\": true}' for a public bucket"
            ) from error
        raise TransientError(type(error).__name__) from error


def _s3_options(timeout: float) -> dict[str, Any]:
    # botocore would try each request 5 times, and s3fs each of these 5 times, with timeouts of their own: a stalled
    # server would hold a shard for minutes. The only retries are those of remote.py.
    limits = {"connect_timeout": timeout, "read_timeout": timeout, "retries": {"total_max_attempts": 1}}
    return {"config_kwargs": limits}
