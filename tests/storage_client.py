"""Google's own client of Cloud Storage, as a judge of what the worker stores. Prints JSON for the test that runs it.

    storage_client.py look URL BUCKET           what the client sees of every object
    storage_client.py write URL BUCKET          two objects of the client's own, in one request and in a session
    storage_client.py key FILE                  a new service account's file, whose key nobody else knows
    storage_client.py sign FILE DATE SECONDS BUCKET NAME   the client's own signed link, as of DATE (20260102T030405Z)
"""

import hashlib
import io
import json
import sys

from google.api_core.exceptions import NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage


def bucket_at(url, name):
    options = {"api_endpoint": url}
    client = storage.Client(project="p", credentials=AnonymousCredentials(), client_options=options)
    return client.get_bucket(name)


def look(url, name):
    bucket = bucket_at(url, name)
    found = []
    for listed in bucket.list_blobs():
        blob = bucket.get_blob(listed.name)
        # Each raises when the content is not what the server says it is.
        contents = [blob.download_as_bytes(checksum=checksum) for checksum in ("md5", "crc32c")]
        pinned = bucket.blob(listed.name, generation=blob.generation)
        # No range lies in an empty object.
        first = pinned.download_as_bytes(start=0, end=9) if blob.size else b""
        assert contents[0] == contents[1] and first == contents[0][:10]
        found.append({
            "name": blob.name,
            "bytes": blob.size,
            "md5": blob.md5_hash,
            "crc32c": blob.crc32c,
            "sha256": hashlib.sha256(contents[0]).hexdigest(),
            "content_type": blob.content_type,
            "cache_control": blob.cache_control,
            "metadata": blob.metadata,
            "generation": str(blob.generation),
            "is_dated": blob.time_created is not None,
        })
    try:
        bucket.blob("not there").download_as_bytes()
        raise AssertionError("an object that is not there was read")
    except NotFound:
        pass
    prefixed = [blob.name for blob in bucket.list_blobs(prefix="u/", max_results=1)]
    return {"objects": found, "first_below_u": prefixed}


def write(url, name):
    bucket = bucket_at(url, name)
    small = bucket.blob("python/small.bin")
    small.metadata = {"concept-key": "of python"}
    small.upload_from_string(b"written by python", content_type="text/x-python", if_generation_match=0)
    try:
        small.upload_from_string(b"again", if_generation_match=0)
        raise AssertionError("an object was created twice")
    except PreconditionFailed:
        pass
    large = bucket.blob("python/large.bin", chunk_size=1 << 20)
    large.metadata = {"concept-key": "of python"}
    content = bytes(range(251)) * 40000
    large.upload_from_file(io.BytesIO(content), size=len(content), checksum="crc32c", if_generation_match=0)
    gone = bucket.blob("python/gone.bin")
    gone.upload_from_string(b"x")
    gone.delete()
    return {"small": str(small.generation), "large": str(large.generation), "large_bytes": len(content)}


def key(path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "1",
        "private_key": private.decode(),
        "client_email": "worker@p.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(account, file)
    return {}


def sign(path, date, seconds, bucket, name):
    from google.cloud.storage import _signing
    from google.oauth2 import service_account

    _signing.get_v4_now_dtstamps = lambda: (date, date[:8])
    credentials = service_account.Credentials.from_service_account_file(path)
    client = storage.Client(project="p", credentials=credentials)
    link = client.bucket(bucket).blob(name).generate_signed_url(version="v4", expiration=int(seconds))
    return {"link": link}


COMMANDS = {"look": look, "write": write, "key": key, "sign": sign}

if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
