"""Settings from the environment and from the agent's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootpoint_common.config import AgentConfig, Config, Listen, LogFormat, LogLevel, SnapshotChoice
from bootpoint_common.errors import Code
from bootpoint_common.job import SpecError
from bootpoint_common.keyplace import KeyPlace
from bootpoint_common.vault import WrongInstallationKeyError


def test_empty_environment_means_the_embedded_default() -> None:
    config = Config.from_environment({"BOOTPOINT_DATABASE_URL": ""})
    assert config == Config()
    assert config.state_directory == Path("/var/lib/bootpoint")
    assert (config.database_url, config.broker_url) == (None, None)
    assert config.metrics == Listen("127.0.0.1", 9109)


def test_environment_is_taken() -> None:
    config = Config.from_environment(
        {
            "BOOTPOINT_STATE": "/srv/bp",
            "BOOTPOINT_DATABASE_URL": "postgresql://bp@db/bp",
            "BOOTPOINT_BROKER_URL": "amqps://bp:pw@mq:5671/bp",
            "BOOTPOINT_METRICS": "[::]:9200",
            "BOOTPOINT_BROKER_TLS": "/etc/bootpoint/tls",
            "BOOTPOINT_DATABASE_TLS": "/etc/bootpoint/db-tls",
            "BOOTPOINT_METRICS_TLS": "/etc/bootpoint/metrics-tls",
            "BOOTPOINT_NBD_TLS": "/etc/bootpoint/nbd-tls",
            "BOOTPOINT_LOG_FORMAT": "json",
            "BOOTPOINT_LOG_LEVEL": "debug",
            "BOOTPOINT_JOB": "of no concern here",
        }
    )
    assert config == Config(
        state_directory=Path("/srv/bp"),
        database_url="postgresql://bp@db/bp",
        broker_url="amqps://bp:pw@mq:5671/bp",
        installation_key=KeyPlace(Path("/srv/bp/installation.key")),
        metrics=Listen("::", 9200),
        broker_tls=Path("/etc/bootpoint/tls"),
        database_tls=Path("/etc/bootpoint/db-tls"),
        metrics_tls=Path("/etc/bootpoint/metrics-tls"),
        nbd_tls=Path("/etc/bootpoint/nbd-tls"),
        log_format=LogFormat.JSON,
        log_level=LogLevel.DEBUG,
    )
    assert Config.from_environment({"BOOTPOINT_METRICS": "off"}).metrics is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BOOTPOINT_STATE", "relative"),
        ("BOOTPOINT_DATABASE_URL", "mysql://bp:hunter2@db"),
        ("BOOTPOINT_DATABASE_URL", "postgresql://bp:hunter2@db:port/bp"),
        ("BOOTPOINT_DATABASE_URL", "postgresql://bp:hunter2/pw@db/bp"),
        ("BOOTPOINT_BROKER_URL", "mq:hunter2"),
        ("BOOTPOINT_METRICS", "9109"),
        ("BOOTPOINT_METRICS", "localhost:99999"),
        ("BOOTPOINT_LOG_FORMAT", "xml"),
        ("BOOTPOINT_DATABSE_URL", "postgresql://bp:hunter2@db"),
    ],
)
def test_bad_variable_is_named_and_no_password_shown(name: str, value: str) -> None:
    if name == "BOOTPOINT_METRICS" and ":" not in value:
        value = "nowhere"
    with pytest.raises(SpecError) as caught:
        Config.from_environment({name: value})
    assert (caught.value.code, caught.value.key) == (Code.SPEC_INVALID, name)
    assert "hunter2" not in f"{caught.value.message}{caught.value.as_json()}"


def test_a_secret_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    database, broker = tmp_path / "database_url", tmp_path / "broker_url"
    database.write_text("postgresql://bp:pw@db/bp\n")
    broker.write_text("amqps://bp:pw@mq/")
    config = Config.from_environment(
        {"BOOTPOINT_DATABASE_URL_FILE": str(database), "BOOTPOINT_BROKER_URL_FILE": str(broker)}
    )
    assert (config.database_url, config.broker_url) == ("postgresql://bp:pw@db/bp", "amqps://bp:pw@mq/")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can't be read: No such file"),
        (b" \n", "is empty"),
        (b"\xff\xfe", "is no text"),
        (b"mysql://bp:hunter2@db", "must be a URL"),
        (b"amqp://bp:hunter2/secret@db/bp", "must be a URL"),
        (b"postgresql://bp:hunter2/secret@db/bp", "has a port that is no number"),
    ],
)
def test_a_file_without_the_secret_is_named_and_nothing_of_it_shown(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "database_url"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        Config.from_environment({"BOOTPOINT_DATABASE_URL_FILE": str(path)})
    assert caught.value.key == "BOOTPOINT_DATABASE_URL_FILE"
    assert f"{path} {says}" in caught.value.message
    assert "hunter2" not in f"{caught.value.message}{caught.value.as_json()}"


def test_a_secret_in_both_places_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "database_url"
    path.write_text("postgresql://bp:hunter2@db/bp")
    variables = {"BOOTPOINT_DATABASE_URL_FILE": str(path), "BOOTPOINT_DATABASE_URL": "postgresql://bp@other/bp"}
    with pytest.raises(SpecError, match="BOOTPOINT_DATABASE_URL is set too") as caught:
        Config.from_environment(variables)
    assert caught.value.hint == "set one of the two"
    assert "hunter2" not in f"{caught.value.message}{caught.value.as_json()}"


def test_every_bad_variable_is_reported() -> None:
    with pytest.raises(SpecError) as caught:
        Config.from_environment({"BOOTPOINT_STATE": "x", "BOOTPOINT_LOG_LEVEL": "loud"})
    assert [problem.key for problem in caught.value.problems] == ["BOOTPOINT_STATE", "BOOTPOINT_LOG_LEVEL"]


HEX = "0123456789abcdef" * 4


def test_the_installations_key_has_one_order(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    given = {"CREDENTIALS_DIRECTORY": str(credentials), "BOOTPOINT_STATE": "/srv/bp"}

    def place(**more: str) -> KeyPlace:
        return Config.from_environment(given | more).installation_key

    assert place() == KeyPlace(Path("/srv/bp/installation.key"))
    (credentials / "bootpoint-installation-key").write_text(HEX)
    (credentials / "bootpoint-installation-key").chmod(0o400)
    assert place() == KeyPlace(credentials / "bootpoint-installation-key", is_credential=True)
    assert place(BOOTPOINT_INSTALLATION_KEY="/etc/bp.key") == KeyPlace(Path("/etc/bp.key"))
    itself = place(BOOTPOINT_INSTALLATION_KEY_HEX=HEX)
    assert (itself.text, str(itself)) == (HEX, "BOOTPOINT_INSTALLATION_KEY_HEX")
    assert HEX not in repr(itself)
    assert itself.open().decrypt("p", place().open().encrypt("p", b"x")) == b"x"


def test_two_keys_or_a_bad_one_are_refused_without_being_shown() -> None:
    both = {"BOOTPOINT_INSTALLATION_KEY": "/etc/bp.key", "BOOTPOINT_INSTALLATION_KEY_HEX": HEX}
    for environment in (both, {"BOOTPOINT_INSTALLATION_KEY_HEX": HEX[:-1]}):
        with pytest.raises(SpecError) as caught:
            Config.from_environment(environment)
        assert caught.value.key == "BOOTPOINT_INSTALLATION_KEY_HEX"
        assert HEX[:-1] not in f"{caught.value.message}{caught.value.as_json()}"


def test_a_credential_may_have_an_access_list_and_a_file_of_ours_may_not(tmp_path: Path) -> None:
    file = tmp_path / "bootpoint-installation-key"
    file.write_text(HEX)
    file.chmod(0o440)  # how systemd's access list for the unit's user shows
    KeyPlace(file, is_credential=True).open()
    with pytest.raises(WrongInstallationKeyError, match="chmod 600"):
        KeyPlace(file).open()
    file.chmod(0o444)
    with pytest.raises(WrongInstallationKeyError):
        KeyPlace(file, is_credential=True).open()
    file.unlink()
    with pytest.raises(FileNotFoundError):
        KeyPlace(file, is_credential=True).open()


@pytest.mark.parametrize("url", ["amqp://a:hunter2@mq", "https://a@mq", "https://mq:15672", "https://a:hunter2@mq?x=1"])
def test_the_url_of_the_management_api_names_an_administrator(url: str, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(url)
    with pytest.raises(SpecError) as caught:
        Config.from_environment({"BOOTPOINT_BROKER_ADMIN_URL_FILE": str(tmp_path / "url")})
    assert caught.value.key == "BOOTPOINT_BROKER_ADMIN_URL_FILE"
    assert "hunter2" not in f"{caught.value.message}{caught.value.as_json()}"
    (tmp_path / "url").write_text("https://a:hunter2@mq:15672\n")
    config = Config.from_environment({"BOOTPOINT_BROKER_ADMIN_URL_FILE": str(tmp_path / "url")})
    assert config.broker_admin_url == "https://a:hunter2@mq:15672"
    assert "hunter2" not in repr(config)


def test_agent_without_a_file_allows_no_file(tmp_path: Path) -> None:
    config = AgentConfig.read(tmp_path / "agent.toml")
    assert config == AgentConfig()
    assert not config.allows_file("file:/srv/disk.raw")


def test_agent_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('state_directory = "/srv/agent"\nfiles = ["file:/srv/disk.raw"]\nsnapshot = "reflink"\n')
    config = AgentConfig.read(path)
    assert (config.state_directory, config.snapshot) == (Path("/srv/agent"), SnapshotChoice.REFLINK)
    assert config.allows_file("file:/srv/disk.raw")
    assert not config.allows_file("file:/srv/other/../disk.raw")
    assert not config.allows_file("file:/etc/shadow")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('files = ["/srv/disk.raw"]', "files[0]"),
        ('files = ["file:/srv/../etc/shadow"]', "files[0]"),
        ('snapshot = "best"', "snapshot"),
        ('file = ["file:/a"]', "file"),
        ("files = [", None),
    ],
)
def test_agent_file_with_an_error(tmp_path: Path, text: str, key: str | None) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        AgentConfig.read(path)
    assert caught.value.key == key
    assert str(path) in caught.value.message


def test_agent_file_that_is_no_text() -> None:
    with pytest.raises(SpecError):
        AgentConfig.from_toml(b"\xff\xfe")


def test_agent_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="can't be read"):
        AgentConfig.read(tmp_path)
