"""The local Postgres: what a start that was ended half-way leaves behind is no hindrance to the next."""

import stat

import psycopg
import pytest

from infra.local import postgres
from infra.local.part import PartFailed, write_private
from infra.local.postgres import Postgres
from tests.parts.postgres import open_folder

# As initdb's does, the file by which a data folder is known comes first.
ENDED = "#!/bin/sh\nmkdir -p $2\necho 18 > $2/PG_VERSION\necho no space left >&2\nexit 1\n"


def test_a_first_start_that_broke_off_is_begun_anew(monkeypatch):
    with open_folder() as folder:
        programs = folder / "programs"
        programs.mkdir()
        (programs / "initdb").write_text(ENDED)
        for each in (programs, programs / "initdb"):
            each.chmod(0o755)
        with monkeypatch.context() as broken:
            broken.setattr(postgres, "BIN", programs)
            with pytest.raises(PartFailed, match=r"(?s)postgres could not make its data folder.*no space left"):
                Postgres(folder).start()
        server = Postgres(folder, durable=False)
        try:
            server.start()
            with psycopg.connect(server.environment["DATABASE_URL"]) as connection:
                assert connection.execute("select 1").fetchone() == (1,)
        finally:
            server.stop()


def test_a_private_file_is_its_owners_whatever_was_there(tmp_path):
    file = tmp_path / "token"
    (tmp_path / "token.new").write_text("left by one that was killed")
    (tmp_path / "token.new").chmod(0o644)
    file.write_text("old")
    file.chmod(0o644)
    write_private(file, "new")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o600)
    assert [each.name for each in tmp_path.iterdir()] == ["token"]
