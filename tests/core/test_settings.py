"""Settings and the key: good values are taken, bad ones are named, and the key is never shown."""

from __future__ import annotations

import copy
import os
import pickle
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring
import keyring.errors
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail, null
from traitlets.config import Config

from apixo_nb import text as text_module
from apixo_nb.core import credentials as keys
from apixo_nb.core import settings as settings_module
from apixo_nb.core.credentials import ApiKey
from apixo_nb.core.settings import Apixo, normal_base_url
from apixo_nb.errors import ConfigurationError
from tests.support.factories import KEY

REAL = "https://api.apixo.ai/api/v1"


class MemoryKeyring(KeyringBackend):
    """A keyring that works, for as long as the test."""

    priority = 1

    def __init__(self):
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str):
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str):
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str):
        if (service, username) not in self.kept:
            raise keyring.errors.PasswordDeleteError(username)
        del self.kept[service, username]


@pytest.fixture
def use_keyring() -> Iterator:
    """Puts a backend in the place of the system's keyring; without a call there is the null one."""
    before = keyring.get_keyring()
    keyring.set_keyring(null.Keyring())
    yield keyring.set_keyring
    keyring.set_keyring(before)


@pytest.fixture
def memory(use_keyring) -> MemoryKeyring:
    backend = MemoryKeyring()
    use_keyring(backend)
    return backend


# --- environment variables --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("APIXO_BASE_URL", "https://proxy.example/", "base_url", "https://proxy.example/api/v1"),
        ("APIXO_HOME", "my pictures 🦊", "home", "my pictures 🦊"),
        ("APIXO_LEDGER", "postgresql://db.example/apixo", "ledger", "postgresql://db.example/apixo"),
        ("APIXO_IMAGES", "/srv/pictures", "images", "/srv/pictures"),
        ("APIXO_FIRST_POLL", "0", "first_poll", 0.0),
        ("APIXO_FIRST_POLL", " 2.5 ", "first_poll", 2.5),
        ("APIXO_POLL_INTERVAL", "0.05", "poll_interval", 0.05),
        ("APIXO_POLL_INTERVAL", "1e1", "poll_interval", 10.0),
        ("APIXO_SANDBOX", "1", "sandbox", True),
        ("APIXO_SANDBOX", "True", "sandbox", True),
        ("APIXO_SANDBOX", "off", "sandbox", False),
        ("APIXO_SANDBOX", "0", "sandbox", False),
    ],
)
def test_variable_sets_its_setting(monkeypatch, variable, text, name, value):
    monkeypatch.setenv(variable, text)
    assert getattr(Apixo(), name) == value


@pytest.mark.parametrize(
    ("variable", "text", "rule"),
    [
        ("APIXO_BASE_URL", "api.apixo.ai", "an https URL"),
        ("APIXO_BASE_URL", "http://api.apixo.ai", "plain http"),
        ("APIXO_IMAGES", "s3://bucket/pictures", "a folder on this machine"),
        ("APIXO_FIRST_POLL", "-1", "a number of seconds, 0 or more"),
        ("APIXO_FIRST_POLL", "nan", "a number of seconds, 0 or more"),
        ("APIXO_FIRST_POLL", "inf", "a number of seconds, 0 or more"),
        ("APIXO_FIRST_POLL", "20s", "a number of seconds, 0 or more"),
        ("APIXO_POLL_INTERVAL", "0", "a number of seconds, 0.05 or more"),
        ("APIXO_POLL_INTERVAL", "0,5", "a number of seconds, 0.05 or more"),
        ("APIXO_SANDBOX", "maybe", "1 or 0"),
    ],
)
def test_bad_variable_is_named_with_its_value_and_its_rule(monkeypatch, variable, text, rule):
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError) as caught:
        Apixo().trait_values()
    assert variable in caught.value.message
    assert repr(text) in caught.value.message
    assert rule in caught.value.message
    assert variable in caught.value.advice


@pytest.mark.parametrize("text", ["", "  ", "\t"])
def test_blank_variables_are_as_good_as_none(monkeypatch, text):
    for name in ("BASE_URL", "HOME", "LEDGER", "IMAGES", "FIRST_POLL", "POLL_INTERVAL", "SANDBOX"):
        monkeypatch.setenv(f"APIXO_{name}", text)
    assert Apixo().trait_values(config=True) == {
        "base_url": REAL,
        "home": "apixo-runs",
        "ledger": "",
        "images": "",
        "first_poll": None,
        "poll_interval": None,
        "request_timeout": 60.0,
        "timeout": 900.0,
        "unit_price_usd": None,
        "ask_above_usd": 5.0,
        "notebook": "",
        "replay": True,
        "rerun": "reuse",
        "sandbox": False,
    }


def test_pictures_lie_in_the_home_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Apixo(home="runs").images_path == tmp_path / "runs" / "images"
    assert Apixo(home="runs", images="elsewhere").images_path == tmp_path / "elsewhere"


def test_folders_stay_where_they_were_when_the_working_folder_changes(tmp_path, monkeypatch):
    monkeypatch.delenv("APIXO_HOME")
    monkeypatch.chdir(tmp_path)
    settings = Apixo(images="pictures", ledger="sqlite:///mine.db?timeout=3")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    settings.poll_interval = 7.0
    frozen = settings.frozen_copy()
    assert (frozen.home, frozen.images) == (str(tmp_path / "apixo-runs"), str(tmp_path / "pictures"))
    assert frozen.ledger == f"sqlite:///{tmp_path}/mine.db?timeout=3"
    settings.home = "elsewhere"
    assert settings.home_path == tmp_path / "below" / "elsewhere"


@pytest.mark.parametrize(
    "url", ["sqlite:////srv/x.db", "sqlite://", "sqlite:///:memory:", "postgresql://host/x", ""]
)
def test_url_of_no_relative_file_stays_as_it_is(url):
    assert Apixo(ledger=url).frozen_copy().ledger == url


def test_home_lies_beside_the_notebook_where_that_is_known(tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "notes" / "a.ipynb"))
    assert Apixo(home="runs").home_path == tmp_path / "runs"
    monkeypatch.delenv("APIXO_HOME")
    assert Apixo().home_path == tmp_path / "notes" / "apixo-runs"
    monkeypatch.setenv("JPY_SESSION_NAME", "elsewhere/a.ipynb")
    assert Apixo().home_path == tmp_path / "apixo-runs"


def test_home_of_the_user_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Apixo(home="~/runs").home_path == tmp_path / "runs"


# --- %config Apixo ----------------------------------------------------------------------------------

BAD_SETTINGS = [
    ("base_url", "http://example.com"),
    ("images", "s3://bucket"),
    ("first_poll", -1.0),
    ("first_poll", float("nan")),
    ("poll_interval", 0.0),
    ("request_timeout", 0.0),
    ("timeout", -5.0),
    ("timeout", float("inf")),
    ("ask_above_usd", -1),
    ("ask_above_usd", float("inf")),
    ("unit_price_usd", -0.35),
    ("unit_price_usd", float("nan")),
]


@pytest.mark.parametrize(("name", "value"), BAD_SETTINGS)
def test_bad_setting_is_refused_and_the_old_one_stays(name, value):
    settings = Apixo()
    before = getattr(settings, name)
    with pytest.raises(ConfigurationError, match=rf"Apixo\.{name} is"):
        setattr(settings, name, value)
    assert getattr(settings, name) == before


@pytest.mark.parametrize(("name", "value"), BAD_SETTINGS)
def test_bad_setting_from_config_is_refused_and_the_old_one_stays(name, value):
    # The way of %config and of configuration files; traitlets checks at its end, with the value set already.
    settings = Apixo()
    before = getattr(settings, name)
    with pytest.raises(ConfigurationError, match=rf"Apixo\.{name} is"):
        settings.update_config(Config({"Apixo": {name: value}}))
    assert getattr(settings, name) == before


def test_good_settings_are_taken():
    settings = Apixo(first_poll=0.0, poll_interval=1.0, timeout=30.0, unit_price_usd=0.28)
    assert (settings.first_poll, settings.poll_interval) == (0.0, 1.0)
    assert (settings.timeout, settings.unit_price_usd) == (30.0, 0.28)


def test_base_url_is_normalised_when_set():
    assert Apixo(base_url="https://proxy.example").base_url == "https://proxy.example/api/v1"


def test_settings_are_one_for_the_process():
    assert settings_module.settings() is settings_module.settings()


def test_no_setting_holds_the_key(monkeypatch):
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    assert KEY not in repr(Apixo().trait_values())


# --- addresses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://api.apixo.ai", REAL),
        ("https://api.apixo.ai/", REAL),
        ("https://api.apixo.ai/api/v1", REAL),
        ("https://api.apixo.ai/api/v1/", REAL),
        ("https://api.apixo.ai/api/v1//", REAL),
        ("  https://api.apixo.ai\n", REAL),
        ("HTTPS://api.apixo.ai", REAL),
        ("https://proxy.example:8443", "https://proxy.example:8443/api/v1"),
        ("https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443/api/v1"),
        ("http://localhost:8080", "http://localhost:8080/api/v1"),
        ("http://127.0.0.1:8080/api/v1", "http://127.0.0.1:8080/api/v1"),
        ("http://127.1.2.3", "http://127.1.2.3/api/v1"),
        ("http://[::1]:8080/", "http://[::1]:8080/api/v1"),
    ],
)
def test_base_url_has_one_form(text, normal):
    assert normal_base_url(text) == normal
    assert normal_base_url(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("api.apixo.ai", id="no scheme"),
        pytest.param("//api.apixo.ai", id="no scheme but slashes"),
        pytest.param("ftp://api.apixo.ai", id="ftp"),
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("https://", id="no host"),
        pytest.param("https:///api/v1", id="no host but a path"),
        pytest.param("https://api.apixo.ai/api/v1/api/v1", id="doubled path"),
        pytest.param("https://api.apixo.ai/api/v2", id="other version"),
        pytest.param("https://api.apixo.ai/api/v1/../../x", id="dots"),
        pytest.param("https://api.apixo.ai/api/v1/%2e%2e", id="encoded dots"),
        pytest.param("https://api.apixo.ai?key=1", id="query"),
        pytest.param("https://api.apixo.ai#x", id="fragment"),
        pytest.param("https://joe@api.apixo.ai", id="user"),
        pytest.param("https://joe:hunter2@api.apixo.ai", id="user and password"),
        pytest.param("https://@api.apixo.ai", id="empty user"),
        pytest.param("https://api.apixo.ai:99999", id="port too large"),
        pytest.param("https://api.apixo.ai:x", id="port no number"),
        pytest.param("https://[::1", id="open bracket"),
        pytest.param("https://api.apixo .ai", id="blank"),
        pytest.param("https://api.apixo.ai\n.evil.example", id="newline within"),
        pytest.param("https://api.apixo.ai\\@evil.example", id="backslash"),
        pytest.param("https://api.apixo.ai\x00", id="NUL"),
        pytest.param("https://api.apixo.ai\u200b", id="zero-width space"),
        pytest.param("http://api.apixo.ai", id="plain http"),
        pytest.param("http://127.0.0.1.evil.example", id="loopback in a name"),
        pytest.param("http://localhost.evil.example", id="localhost in a name"),
        pytest.param("http://2130706433", id="loopback as a number"),
        pytest.param("http://0.0.0.0", id="all addresses"),
        pytest.param("http://10.0.0.1", id="private"),
        pytest.param("http://[2001:db8::1]", id="plain http over IPv6"),
    ],
)
def test_unusable_base_url_is_refused_with_the_form_it_should_have(text):
    with pytest.raises(ValueError, match=re.escape(f"an https URL such as {REAL}")):
        normal_base_url(text)


@pytest.mark.parametrize(
    "text", ["https://joe:hunter2@api.apixo.ai", "https://hunter2@api.apixo.ai", "https://a.b?key=hunter2"]
)
def test_secret_in_a_base_url_is_not_repeated(monkeypatch, text):
    monkeypatch.setenv("APIXO_BASE_URL", text)
    with pytest.raises(ConfigurationError) as caught:
        _ = Apixo().base_url
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("example.com", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("", False),
        (None, False),
    ],
)
def test_loopback_is_this_machine_only(host, loopback):
    assert text_module.is_loopback(host) is loopback


# --- the key ----------------------------------------------------------------------------------------


def test_key_is_shown_nowhere():
    key = ApiKey(KEY, "in a test")
    shown = [repr(key), str(key), f"{key}", f"{key!s:>80}", f"{[key]}", repr({"k": key})]
    assert not [text for text in shown if KEY in text or KEY[-4:] in text]
    assert "in a test" in repr(key)
    with pytest.raises(TypeError):
        vars(key)


def test_key_is_read_in_one_way_only():
    assert ApiKey(KEY).bearer() == f"Bearer {KEY}"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_key_does_not_pickle(protocol):
    with pytest.raises(TypeError, match="not pickled") as caught:
        pickle.dumps(ApiKey(KEY), protocol)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy])
def test_key_is_not_copied_by_accident(clone):
    with pytest.raises(TypeError):
        clone({"key": ApiKey(KEY)} if clone is copy.deepcopy else ApiKey(KEY))


def test_key_is_taken_out_of_what_a_server_quotes():
    assert ApiKey(KEY).hide(f"header: Bearer {KEY}; {KEY}") == "header: Bearer [API key]; [API key]"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(KEY, id="as it is"),
        pytest.param(f"  {KEY}\t", id="blanks"),
        pytest.param(f"{KEY}\r\n", id="newline"),
        pytest.param(f"\u00a0{KEY}\u00a0", id="NBSP around"),
        pytest.param(f'"{KEY}"', id="double quotes"),
        pytest.param(f"'{KEY}'\n", id="single quotes"),
        pytest.param(f"Bearer {KEY}", id="Bearer"),
        pytest.param(f"bearer   {KEY}", id="bearer, blanks"),
        pytest.param(f'"Bearer {KEY}"', id="quotes and Bearer"),
        pytest.param(f"Bearer '{KEY}'", id="Bearer and quotes"),
    ],
)
def test_what_people_paste_along_is_stripped(text):
    assert ApiKey(text).bearer() == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(" \n", id="blanks"),
        pytest.param("''", id="empty quotes"),
        pytest.param("Bearer ", id="Bearer and no more"),
        pytest.param("YOUR_API_KEY", id="placeholder"),
        pytest.param("your-api-key", id="placeholder, lower"),
        pytest.param("Bearer YOUR_API_KEY", id="placeholder of the page"),
        pytest.param(KEY[:9] + "\u00a0" + KEY[9:], id="NBSP within"),
        pytest.param(KEY[:9] + " " + KEY[9:], id="blank within"),
        pytest.param(KEY[:9] + "\n" + KEY[9:], id="newline within"),
        pytest.param(KEY[:9] + "\x00" + KEY[9:], id="NUL within"),
        pytest.param(KEY.replace("e", "е"), id="Cyrillic"),  # noqa: RUF001 - that is the point
        pytest.param("\ufeff" + KEY, id="BOM"),
        pytest.param(KEY + "\u200b", id="zero-width space"),
        pytest.param("sk-" + "x" * 10_000, id="10 kB"),
        pytest.param(f"{KEY}\r\nX-Other: 1", id="a second header"),
    ],
)
def test_unusable_key_is_refused_without_being_shown(text):
    with pytest.raises(ConfigurationError) as caught:
        ApiKey(text, "in APIXO_API_KEY")
    shown = str(caught.value) + repr(caught.value) + repr(vars(caught.value))
    assert "in APIXO_API_KEY" in caught.value.message
    assert caught.value.next_step
    assert not [part for part in (KEY[:9], KEY[9:], "xxxx") if part in shown]


# --- where the key comes from -----------------------------------------------------------------------


def write_key_file(text: str | bytes) -> Path:
    path = keys.key_file()
    path.parent.mkdir(parents=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.usefixtures("use_keyring")
def test_no_key_anywhere_is_none():
    assert keys.find_key() is None


def test_environment_goes_before_keyring_before_file(memory, monkeypatch):
    write_key_file("sk-file\n")
    memory.set_password("apixo_nb", "api-key", "sk-keyring")
    monkeypatch.setenv("APIXO_API_KEY", "sk-environment")
    assert [_found(), monkeypatch.delenv("APIXO_API_KEY"), _found(), memory.kept.clear(), _found()] == [
        ("Bearer sk-environment", "in APIXO_API_KEY"),
        None,
        ("Bearer sk-keyring", "in the system keyring"),
        None,
        ("Bearer sk-file", "in the key file"),
    ]


def _found() -> tuple[str, str]:
    key = keys.find_key()
    assert key is not None
    return key.bearer(), key.source


@pytest.mark.parametrize("text", ["", "  "])
def test_blank_variable_does_not_hide_the_stored_key(memory, monkeypatch, text):
    memory.set_password("apixo_nb", "api-key", KEY)
    monkeypatch.setenv("APIXO_API_KEY", text)
    assert _found() == (f"Bearer {KEY}", "in the system keyring")


def test_bad_variable_is_an_error_and_no_other_key_is_used_in_its_place(memory, monkeypatch):
    memory.set_password("apixo_nb", "api-key", KEY)
    monkeypatch.setenv("APIXO_API_KEY", "YOUR_API_KEY")
    with pytest.raises(ConfigurationError, match="in APIXO_API_KEY"):
        keys.find_key()


@pytest.mark.usefixtures("use_keyring")
def test_environment_is_read_when_asked_for(monkeypatch):
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    key = keys.find_key()
    assert key is not None
    assert key.bearer() == f"Bearer {KEY}"


def test_broken_keyring_means_no_key_there(use_keyring):
    use_keyring(fail.Keyring())
    write_key_file(KEY)
    assert _found() == (f"Bearer {KEY}", "in the key file")


@pytest.mark.usefixtures("use_keyring")
def test_damaged_key_file_is_our_error_and_shows_no_key():
    write_key_file(KEY.encode() + b"\xff\xfe")
    with pytest.raises(ConfigurationError) as caught:
        keys.find_key()
    assert KEY not in str(caught.value) + repr(vars(caught.value))


@pytest.mark.parametrize("backend", [null.Keyring, fail.Keyring])
def test_key_goes_to_a_private_file_where_no_keyring_works(use_keyring, backend):
    use_keyring(backend())
    assert keys.store_key(ApiKey(f" {KEY}\n")).source == "in the key file"
    assert keys.key_file().read_text() == KEY
    assert stat.S_IMODE(keys.key_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.key_file().parent.stat().st_mode) & 0o077 == 0
    assert _found() == (f"Bearer {KEY}", "in the key file")


@pytest.mark.usefixtures("use_keyring")
def test_key_file_that_was_open_to_all_is_closed():
    path = write_key_file("an older and longer key than the new one, with permissions for everybody")
    path.chmod(0o644)
    keys.store_key(ApiKey(KEY))
    assert path.read_text() == KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_key_goes_to_the_keyring_where_it_works(memory):
    assert keys.store_key(ApiKey(KEY)).source == "in the system keyring"
    assert memory.kept == {("apixo_nb", "api-key"): KEY}
    assert not keys.key_file().exists()


@pytest.mark.usefixtures("memory")
def test_key_in_the_keyring_leaves_no_older_one_in_the_file():
    path = write_key_file("sk-older")
    keys.store_key(ApiKey(KEY))
    assert not path.exists()


def test_unusable_key_is_not_stored(memory):
    with pytest.raises(ConfigurationError):
        keys.store_key(ApiKey("YOUR_API_KEY"))
    assert not memory.kept


@pytest.mark.usefixtures("use_keyring")
@pytest.mark.parametrize("there", [True, False])
def test_key_goes_through_no_link(tmp_path, there):
    path = keys.key_file()
    path.parent.mkdir(parents=True)
    target = tmp_path / "elsewhere"
    if there:
        target.write_text("another's")
    path.symlink_to(target)
    keys.store_key(ApiKey(KEY))
    assert not path.is_symlink()
    assert path.read_text() == KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (target.read_text() if there else target.exists()) == ("another's" if there else False)


@pytest.mark.usefixtures("use_keyring")
@pytest.mark.parametrize("moment", ["open", "fsync"])
def test_link_that_is_put_there_meanwhile_gets_no_key(tmp_path, monkeypatch, moment):
    path, target = keys.key_file(), tmp_path / "elsewhere"
    path.parent.mkdir(parents=True)
    plain = getattr(os, moment)

    def raced(*args: Any) -> Any:
        if not path.is_symlink():
            path.symlink_to(target)
        return plain(*args)

    monkeypatch.setattr(os, moment, raced)
    keys.store_key(ApiKey(KEY))
    assert not path.is_symlink()
    assert path.read_text() == KEY
    assert not target.exists()


@pytest.mark.usefixtures("use_keyring")
def test_link_in_place_of_the_new_file_gets_no_key(tmp_path, monkeypatch):
    path, target = keys.key_file(), tmp_path / "elsewhere"
    path.parent.mkdir(parents=True)
    plain = os.open

    def raced(name: Any, *args: Any) -> int:
        if str(name).endswith(".part"):
            Path(name).symlink_to(target)
        return plain(name, *args)

    monkeypatch.setattr(os, "open", raced)
    with pytest.raises(ConfigurationError, match="could not be stored"):
        keys.store_key(ApiKey(KEY))
    assert not target.exists()


@pytest.mark.usefixtures("use_keyring")
def test_older_open_file_and_its_other_names_do_not_get_the_key(tmp_path):
    path = write_key_file("an older key, read by everybody")
    path.chmod(0o644)
    (tmp_path / "another name").hardlink_to(path)
    with path.open() as reader:
        keys.store_key(ApiKey(KEY))
        assert KEY not in reader.read()
    assert KEY not in (tmp_path / "another name").read_text()
    assert path.read_text() == KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.usefixtures("use_keyring")
def test_key_that_cannot_be_stored_says_so_without_showing_it(monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(ConfigurationError, match="No space left on device") as caught:
        keys.store_key(ApiKey(KEY))
    assert KEY not in str(caught.value)
    assert "APIXO_API_KEY" in caught.value.advice


@pytest.mark.parametrize("backend", [MemoryKeyring, null.Keyring, fail.Keyring])
def test_forgotten_key_is_gone(use_keyring, backend):
    use_keyring(backend())
    keys.store_key(ApiKey(KEY))
    keys.forget_key()
    assert keys.find_key() is None
    assert not keys.key_file().exists()


def test_forgetting_removes_both_stored_keys(memory):
    write_key_file(KEY)
    memory.set_password("apixo_nb", "api-key", KEY)
    keys.forget_key()
    assert (memory.kept, keys.key_file().exists()) == ({}, False)


@pytest.mark.usefixtures("memory")
def test_forgetting_where_nothing_is_stored_is_harmless():
    keys.forget_key()
    assert keys.find_key() is None
