"""The same calls on object storage, with a server that the test starts on this machine."""

import io
import logging
import threading

import numpy as np
import pandas as pd
import pytest
import stores

import agn_helpers as agn

pytest.importorskip("obstore", reason="needs obstore")
moto_server = pytest.importorskip("moto.server", reason="needs moto")
BUCKET = "quasars"


class Counting:
    """Counts the requests of each kind, and can answer all with an error."""

    def __init__(self, app):
        self.app, self.seen, self.broken, self.lock = app, [], False, threading.Lock()
        self.meeting = None  # where the next requests wait for each other

    def __call__(self, environ, start_response):
        with self.lock:
            self.seen.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
            meet = self.meeting is not None and len(self.seen) <= self.meeting.parties
        if meet:
            self.meeting.wait()
        if self.broken:
            start_response("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        return self.app(environ, start_response)


@pytest.fixture(scope="module")
def server():
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = Counting(moto_server.DomainDispatcherApplication(moto_server.create_backend_app))
    httpd = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    app.address = f"http://127.0.0.1:{httpd.server_port}"
    yield app
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def account(server, monkeypatch):
    """Credentials as everybody gives them: by the environment."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "reader",
        "AWS_SECRET_ACCESS_KEY": "for moto alone",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.address,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    server.broken = False
    return server


@pytest.fixture(scope="module")
def packed(made, tmp_path_factory):
    return agn.pack_store(made[2, "zip"], tmp_path_factory.mktemp("s3") / "packed.zarr")


@pytest.fixture
def upload(account):
    """Copy a folder store into the bucket; return its address."""
    import obstore
    from obstore.store import S3Store

    def put(folder, name):
        import http.client
        from urllib.parse import urlparse

        connection = http.client.HTTPConnection(urlparse(account.address).netloc)
        connection.request("PUT", f"/{BUCKET}")
        connection.getresponse().read()
        connection.close()
        bucket = S3Store(BUCKET)
        for path in folder.rglob("*"):
            if path.is_file():
                key = f"{name}/{path.relative_to(folder).as_posix()}"
                obstore.put(bucket, key, io.BytesIO(path.read_bytes()))
        account.seen.clear()
        return f"s3://{BUCKET}/{name}"

    return put


@pytest.mark.parametrize("kind", ["v2", "v3", "packed"])
def test_every_call_has_the_same_answer(made, packed, upload, kind):
    folder = {"v2": made[2, "folder"], "v3": made[3, "folder"], "packed": packed}[kind]
    with agn.open_training_set(folder) as here, agn.open_training_set(upload(folder, kind)) as there:
        assert there.location == f"s3://{BUCKET}/{kind}"
        assert there.attrs == here.attrs
        assert repr(there.tree(2)) == repr(here.tree(2))
        assert there.light_curve_ids().tolist() == list(stores.IDS)
        pd.testing.assert_frame_equal(there.catalog(), here.catalog())
        pd.testing.assert_frame_equal(there.light_curves(), here.light_curves())
        record = there.raw_light_curve(3)
        assert record.tobytes() == here.raw_light_curve(3).tobytes()
        with pytest.raises(agn.UnknownTrainIdError, match="No light curve with train_id 5"):
            there.raw_light_curve(5)
        path = "sdss_lc/columns/mjd_g" if kind == "packed" else "sdss_lc/3"
        np.testing.assert_array_equal(there.root[path][:], here.root[path][:])


def test_a_packed_copy_takes_few_requests(packed, upload, account):
    """And they do not depend on the number of light curves."""
    with agn.open_training_set(upload(packed, "few")) as ts:
        opening = len(account.seen)
        ts.light_curves(bands=["g"], columns=["mjd", "mag"])
    assert opening <= 12
    assert len(account.seen) - opening <= 4  # metadata and one chunk of each of two columns
    assert {method for method, _ in account.seen} == {"GET"}


def test_chunks_are_fetched_side_by_side(made, tmp_path, upload, account, monkeypatch):
    monkeypatch.setattr(agn.packed, "CHUNK", 10)
    copy = agn.pack_store(made[2, "zip"], tmp_path / "p.zarr")
    with agn.open_training_set(copy) as here, agn.open_training_set(upload(copy, "side")) as there:
        account.seen.clear()
        pd.testing.assert_frame_equal(there.light_curves(columns=["mag"]), here.light_curves(columns=["mag"]))
        chunks = [path for _, path in account.seen if "/columns/psfmag_g/c/" in path]
        assert sorted(chunks) == sorted({f"/{BUCKET}/side/sdss_lc/columns/psfmag_g/c/{i}" for i in range(16)})
        for ids in ([100, 3], [66], [0]):
            pd.testing.assert_frame_equal(there.light_curves(ids), here.light_curves(ids))


@pytest.mark.parametrize("version", [2, 3])
def test_many_light_curves_are_fetched_side_by_side(made, upload, account, version):
    """The server answers the first four requests only when all of them have come."""
    folder = made[version, "folder"]
    with agn.open_training_set(upload(folder, f"many{version}")) as there:
        ids = [i for i in there.light_curve_ids().tolist() if len(there.raw_light_curve(i))]
        account.seen.clear()
        account.meeting = threading.Barrier(4, timeout=60)
        try:
            there.light_curves(ids)
            assert not account.meeting.broken
        finally:
            account.meeting = None
        got = {path for _, path in account.seen}
        meta = ".zarray" if version == 2 else "zarr.json"
        assert {f"/{BUCKET}/many{version}/sdss_lc/{i}/{meta}" for i in ids} <= got
        assert len(got) == 2 * len(ids)
        with pytest.raises(agn.UnknownTrainIdError, match="No light curve with train_id 5"):
            there.light_curves([3, 5])


def test_nothing_there(upload, made):
    upload(made[2, "folder"], "other")
    with pytest.raises(agn.NotATrainingSetError, match="s3://quasars/nothing is not a Zarr group"):
        agn.open_training_set(f"s3://{BUCKET}/nothing")


def test_a_chunk_that_is_missing_or_too_large(made, tmp_path, upload):
    folder = stores.copy_store(made[2, "folder"], tmp_path / "s.zarr")
    (folder / "sdss_lc" / "3" / "0").unlink()
    (folder / "sdss_lc" / "66" / "0").write_bytes(bytes(10**6))
    with agn.open_training_set(upload(folder, "bad")) as ts:
        with pytest.raises(agn.DamagedStoreError, match="chunk sdss_lc/3/0 is not in the store"):
            ts.raw_light_curve(3)
        with pytest.raises(agn.LimitError, match="sdss_lc/66/0 holds 1000000 bytes, more than"):
            ts.raw_light_curve(66)


def test_no_permission(made, upload, account):
    address = upload(made[2, "folder"], "closed")
    with agn.open_training_set(address) as ts:
        account.broken = True
        with pytest.raises(agn.DamagedStoreError, match="Check address, network and credentials") as e:
            ts.raw_light_curve(3)
        with pytest.raises(agn.DamagedStoreError, match="Check address, network and credentials"):
            ts.light_curve_ids()
    assert "for moto alone" not in str(e.value)


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("s3://quasars/a.zarr.zip", "is a zip on object storage"),
        ("magic://quasars/a", "is not an address that can be read"),
    ],
)
def test_addresses_that_cannot_be_read(address, match):
    with pytest.raises(agn.InvalidValueError, match=match):
        agn.open_training_set(address)


def test_without_obstore(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(agn.InvalidValueError, match="pip install obstore"):
        agn.open_training_set("s3://quasars/a.zarr")
