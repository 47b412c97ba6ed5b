"""Save a bucket to a tar on stdout, or restore it from a tar on stdin: python bucket.py save|restore NAME.

Runs in the server's container, whose environment has the store's address and credentials.
"""

import io
import sys
import tarfile

import boto3


def save(store, bucket: str) -> None:
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        for page in store.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for one in page.get("Contents", []):
                content = store.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()
                about = tarfile.TarInfo(one["Key"])
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))


def restore(store, bucket: str) -> None:
    if bucket not in [one["Name"] for one in store.list_buckets()["Buckets"]]:
        store.create_bucket(Bucket=bucket)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        for about in tar:
            if (content := tar.extractfile(about)) is not None:  # None for what is no file
                store.put_object(Bucket=bucket, Key=about.name, Body=content.read())


if __name__ == "__main__":
    {"save": save, "restore": restore}[sys.argv[1]](boto3.client("s3"), sys.argv[2])
