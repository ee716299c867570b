"""Everything a clumsy or hostile person can type, and what they must be told: one row each.

There are four interfaces: cell magic, line magic, Python API, and settings (with the environment).
A row says what is done there, and three texts that the error must hold: the field, the value that was given
(never that of a key), and what is allowed. `tests/promises/test_bad_inputs.py` does it, in an IPython shell,
against a running sandbox, which must not hear of it.

In what is done and in what is expected, ``<file>`` is an existing file, ``<folder>`` an empty folder, and
``<port>`` a port of this machine on which nobody listens.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping

CELL, LINE, PYTHON, SETTINGS = "cell magic", "line magic", "Python", "settings"
INVALID, CONFIGURATION, SETTING = "InvalidRequestError", "ConfigurationError", "SettingError"


@dataclasses.dataclass(frozen=True, slots=True)
class BadInput:
    """One thing that is refused.

    Attributes
    ----------
    name, interface : str
    source : str
        The cell that is run.
    field, value, allowed : str
        What the error's text must hold; "" where there is nothing to name.
    error : str
        The error's class.
    variables : mapping
        What the environment is set to before.
    hidden : str
        What must be shown nowhere.
    """

    name: str
    interface: str
    source: str
    field: str
    value: str
    allowed: str
    error: str = INVALID
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hidden: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Forgiven:
    """One thing that is put right: it works, and `sends` tasks are bought. `says`: what is shown as well."""

    name: str
    interface: str
    source: str
    sends: int = 1
    says: str = ""
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)


# --- how the rows are written --------------------------------------------------------------------------

GOOD = "%%apixo\na fox"
URL = "https://example.com/fox.png"
SECRET = "sk-live-9zQ-Walrus-44"
RATIOS, COUNTS, PROMPT = "1:1, 2:3, 3:2", "1, 2, 4", "1 to 10000 characters"
PUBLIC, NAME = "public, direct http(s) URLs", "a plain variable name"
SUM, SECONDS, INTERVAL = "0 or more", "a number of seconds above 0", "0.05 or more"
BRACES = "Write {{ and }}"
BASE = "an https URL such as https://api.apixo.ai/api/v1"
FOLDER, FILE, USD = "a folder you may write to", "the name of a file", "a sum in US dollars"


def quoted(text: str) -> str:
    """How a word of a line begins where a message quotes it."""
    return repr(shlex.split(text)[0])[:40]


def options(line: str, field: str, value: str, allowed: str) -> BadInput:
    """Bad options of the cell magic, above a good prompt."""
    return BadInput(line[:70], CELL, f"%%apixo {line}\na fox", field, value, allowed)


def reference(text: str, value: str = "") -> BadInput:
    return options(f"--ref {text}", "reference", value or quoted(text), PUBLIC)


def prompt(name: str, text: str, value: str, allowed: str) -> BadInput:
    """A bad prompt below the cell magic."""
    return BadInput(f"prompt, {name}", CELL, f"%%apixo\n{text}", "prompt", value, allowed)


def command(line: str, field: str, value: str, allowed: str, error: str = INVALID) -> BadInput:
    """A bad line magic."""
    return BadInput(line[:70], LINE, f"%apixo {line}", field, value, allowed, error)


def python(source: str, field: str, value: str, allowed: str, error: str = INVALID) -> BadInput:
    """A bad call of the Python API."""
    return BadInput(source[:70], PYTHON, source, field, value, allowed, error)


def argument(name: str, value: str, allowed: str, shown: str = "") -> BadInput:
    """A bad argument of `generate`, beside a good prompt."""
    return python(f"generate('a fox', {name}={value})", name, shown or value, allowed)


def callback(url: str | None, value: str, allowed: str = "a public https URL") -> BadInput:
    """A bad address for APIXO to call."""
    source = f"Client().submit('a fox', request_type='callback', callback_url={url!r})"
    return BadInput(f"callback_url={url!r:.60}", PYTHON, source, "callback_url", value, allowed)


def secret(source: str, allowed: str) -> BadInput:
    """A call with a bad key, which is shown nowhere."""
    return BadInput(source, PYTHON, source, "API key", "", allowed, CONFIGURATION, {}, SECRET)


def configured(setting: str, value: str, allowed: str, error: str = SETTING) -> BadInput:
    """A bad value given to ``%config``."""
    name, text = f"Apixo.{setting}", f"%config Apixo.{setting} = {value or 5}"
    return BadInput(text, SETTINGS, text, name if error == SETTING else setting, value, allowed, error)


def variable(name: str, value: str, shown: str, allowed: str, error: str = SETTING) -> BadInput:
    """A bad environment variable, met by a good cell; it holds no key, or not in the open."""
    hidden = SECRET if SECRET in value else ""
    text = f"{name}={value!r:.60}"
    return BadInput(text, SETTINGS, GOOD, name, shown, allowed, error, {name: value}, hidden)


def base_url(value: str, shown: str = "", allowed: str = BASE) -> BadInput:
    return variable("APIXO_BASE_URL", value, shown or repr(value), allowed)


def key(name: str, text: str) -> BadInput:
    """A bad key in the environment; it is shown nowhere."""
    given, hidden = {"APIXO_API_KEY": text}, text.strip(" '\"\n")[-12:]
    advice = "Copy the key again"
    return BadInput(f"key, {name}", SETTINGS, GOOD, "APIXO_API_KEY", "", advice, CONFIGURATION, given, hidden)


# --- what is refused -----------------------------------------------------------------------------------

_WRONG_RATIOS = ("5:4", "1x1", "'1:1 '", "01:1", "16:9", "auto", "''", "3\uff1a2", "x" * 5000)
_WRONG_COUNTS = ("0", "3", "-1", "2.0", "two", "1e2", "True", "''", "1" + "0" * 20)

BAD_CELLS = [
    *(options(f"--ar {v}", "--ar", quoted(v), RATIOS) for v in _WRONG_RATIOS),
    *(options(f"-n {v}", "-n", quoted(v), COUNTS) for v in _WRONG_COUNTS),
    options("--ar 1:1,5:4", "--ar", "'5:4'", RATIOS),
    options("--ar 1:1,1:1", "aspect_ratio", "'1:1'", "--repeat"),
    options("--ar 1:1,,3:2", "--ar", "'1:1,,3:2'", "No blank follows a comma"),
    options("-n 2,3", "-n", "'3'", COUNTS),
    options("--ar @nowhere", "", "'nowhere'", "in an earlier cell"),
    options("--ar @nan", "--ar", "nan", "any iterable"),
    options("--ref", "--ref", "", "expected one argument"),
    options("--new=yes", "--new", "'yes'", "ignored explicit argument"),
    options("--arr 3:2", "option", "'--arr'", "Did you mean --ar?"),
    options("--max 1", "option", "'--max'", "Did you mean --max-cost?"),
    options("—ar 3:2", "on this line", "'—ar'", "needs quotes"),
    options("a cozy cafe", "on this line", "'a'", "The prompt goes into the cell below"),
    options("--name my foxes", "on this line", "'foxes'", "needs quotes"),
    options("--name 'cafe", "quote", "--name 'cafe", "Close it"),
    options("--model gpt-image-2", "model", "'gpt-image-2'", "gpt-image-1"),
    *(options(f"--max-cost {v}", "--max-cost", v, SUM) for v in ("-1", "nan", "inf", "1,5", "1e400", "''")),
    *(options(f"--timeout {v}", "--timeout", v, SECONDS) for v in ("0", "-1", "nan", "inf", "5min")),
    *(options(f"-o {v}", "-o", v, NAME) for v in ("for", "print", "1x", "a.b", "x-y", "a[0]", "None")),
    options("--repeat 0", "--repeat", "'0'", "a whole number from 1 to 100"),
    options("--repeat 101", "--repeat", "'101'", "a whole number from 1 to 100"),
    options("--repeat two", "--repeat", "'two'", "a whole number from 1 to 100"),
    options("--set mood=a,b", "{mood}", "", "Write {mood} where"),
    options("--set mood", "--set", "'mood'", "--set NAME=A,B"),
    options("--set 1x=a", "--set", "'1x=a'", "--set NAME=A,B"),
    options("--set mood=", "--set mood", "", "needs quotes"),
    options("--set mood=a --set mood=b", "--set mood", "twice", "--set mood=A,B"),
    options("--set mood=a, b", "on this line", "'b'", "needs quotes"),
    options("--callback http://localhost/", "--callback", "", "Polling works everywhere"),
    *map(reference, ("fox.png", "/home/me/a.png", "file:///home/me/a.png", "ftp://a.example/b.png", "''")),
    *map(reference, ("data:image/png;base64,iVBORw0KGgo=", "'javascript:alert(1)'", "https:///fox.png")),
    *map(reference, ("https://example.com:99999/fox.png", "'https://example.com/a fox.png'")),
    *map(reference, ("http://10.0.0.7:8888/files/fox.png", "http://192.168.0.7/fox.png")),
    reference("https://me:secret@example.com/fox.png", "example.com/fox.png"),
    reference("https://example.com\\\\@evil.example/a.png", "evil.example"),
    options(" ".join(f"--ref {URL}?{number}" for number in range(6)), "reference", "6", "at most 5"),
    options("--ref https://example.com/fox.tiff", "reference", "fox.tiff", "WebP"),
    prompt("blank", " \n\t\n", "", "the cell below"),
    prompt("nothing but separators", "---\n---\r\n---", "", "the cell below"),
    prompt("a zero-width space", "\u200b", "\\u200b", PROMPT),
    prompt("one character too long", "x" * 10_001, "10001", PROMPT),
    prompt("one emoji too long", "🦊" * 10_001, "10001", PROMPT),
    prompt("NUL", "a{nul}fox", "U+0000, at position 1", PROMPT),
    prompt("lone surrogate", "a {surrogate}", "U+D800, at position 2", PROMPT),
    prompt("name whose value is blank", "{blank}", "\\u200b", PROMPT),
    prompt("one of two is bad", "a fox\n---\na {moood} fox", "{moood}", "Did you mean mood?"),
    prompt("unknown name", "a {moood} fox", "{moood}", "Did you mean mood?"),
    prompt("unknown name like no other", "a {qqq} fox", "{qqq}", "Set qqq in an earlier cell"),
    prompt("lone brace", "a { fox", "{ fox", BRACES),
    prompt("lone closing brace", "a } fox", "} fox", BRACES),
    prompt("no name", "a {} fox", "{}", BRACES),
    prompt("number", "a {0} fox", "{0}", BRACES),
    prompt("call", "{mood.upper()}", "{mood.upper()}", BRACES),
    prompt("attribute", "{mood.__class__.__mro__}", "{mood.__class__", BRACES),
    prompt("index", "{mood[0]}", "{mood[0]}", BRACES),
    prompt("conversion", "{mood!r}", "{mood!r}", BRACES),
    prompt("format", "{mood:>9999999999}", "{mood:>9", BRACES),
    prompt("JSON", '{"style": "oil"}', '"style"', BRACES),
    prompt("code of a shell", "${HOME} and {mood;import os}", "{mood;import os}", BRACES),
]

LOGIN = f"%apixo login {SECRET}"

BAD_LINES = [
    command("stauts", "command", "'stauts'", "Did you mean status?"),
    command("--ar 3:2", "command", "'--ar'", "%%apixo"),
    command("an old cafe", "command", "'an'", "%%apixo"),
    command("x" * 5000, "command", "xxxx", "login, logout"),
    command("\x1b[2J", "command", "\\x1b", "login, logout"),
    BadInput("login KEY", LINE, LOGIN, "login", "", "takes no key on the line", CONFIGURATION, hidden=SECRET),
    *(command(f"history {v}", "runs", f"'{v}'", "1, 2") for v in ("0", "-3", "all", "1e2", "2.5", "²", "5;")),
    command("history 5 10", "runs", "'5 10'", "1, 2, 3 ..."),
    command("resume nope", "run", "'nope'", "history"),
    command("resume nope task_1", "run", "'nope'", "history"),
    command("resume one two three", "resume", "'one two three'", "%apixo resume"),
    command("sandbox maybe", "sandbox", "'maybe'", "on, off"),
    command("sandbox on off", "sandbox", "'on off'", "on, off"),
    command("export", "export", "", "%apixo export FILE.csv"),
    command("export a.csv b.csv", "export", "a.csv b.csv", "%apixo export FILE.csv"),
    command("export <folder>", "table", "<folder>", FILE, "ApixoError"),
    command("export <file>/runs.csv", "table", "<file>/runs.csv", FILE, "ApixoError"),
    command("export ~nobody-at-all/runs.csv", "table", "~nobody-at-all/runs.csv", FILE, "ApixoError"),
    command("export runs.xlsx", "table", "runs.xlsx", ".csv", "ApixoError"),
    command(f"export {'x' * 300}.csv", "table", "xxxx", FILE, "ApixoError"),
]

_SCOPES = ("5 10", "off 5", "5 --week", "5 --dya", "5 --day --notebook", "--day")

BAD_LINES += [
    *(command(f"budget {v}", "budget", v, USD) for v in ("five", "-1", "nan", "inf", "1,5", "1e400", "''")),
    *(command(f"budget {v}", "budget", v, "--day or --notebook") for v in _SCOPES),
    *(
        command(f"{v} now", v, "'now'", "takes nothing after it")
        for v in ("panel", "rescue", "wait", "status", "balance")
    ),
    command("doctor --rebuilt", "doctor", "'--rebuilt'", "nothing, --rebuild or --accept"),
    command("spend five", "Spend", "'five'", "day"),
    command("settle", "settle", "", "%apixo settle RUN paid"),
    command("settle nope maybe", "settle", "'nope maybe'", "%apixo settle RUN paid"),
    command("settle nope paid", "run", "'nope'", "history"),
    options("--bg=yes", "--bg", "'yes'", "ignored explicit argument"),
    options("--bgg", "option", "'--bgg'", "Did you mean --bg?"),
    options("--bg --ar 5:4", "--ar", "'5:4'", RATIOS),  # at once, not in the background
]

_NOBODY = "Client(base_url='http://127.0.0.1:<port>', retry=once).submit('a fox')"
_TYPES = {"''": "", "None": "NoneType", "b'a fox'": "bytes", "['a fox']": "list", "7": "int"}

BAD_CALLS = [
    *(python(f"generate({value})", "prompt", shown, PROMPT) for value, shown in _TYPES.items()),
    python("generate('\\ud800')", "prompt", "U+D800", PROMPT),
    *(argument("aspect_ratio", value, RATIOS) for value in ("'5:4'", "1.5")),
    *(argument("num_images", value, COUNTS) for value in ("3", "True", "'2'", "nan")),
    argument("num_images", "10**5000", COUNTS, "a int"),
    argument("quality", "'hd'", "aspect_ratio, num_images", "'quality'"),
    argument("num_image", "2", "Did you mean num_images?", "'num_image'"),
    argument("model", "['gpt-image-1']", "gpt-image-1"),
    argument("image_urls", f"'{URL}'", "a list of public http(s) URLs", URL),
    argument("image_urls", "None", "a list of public http(s) URLs"),
    python("generate('a fox', image_urls=[None])", "reference", "None", PUBLIC),
    argument("request_type", "'sync'", "async, callback"),
    argument("callback_url", f"'{URL}'", "none with async", URL),
    *(argument(name, "5", "text") for name in ("name", "note")),
    argument("tags", "'red'", '["draft"]'),
    argument("tags", "[5]", "text", "5"),
    *(argument("timeout_s", value, SECONDS) for value in ("'60'", "0", "inf", "nan", "True")),
    argument("timeout_s", "10**400", SECONDS, "1000"),
    *(argument("max_cost_usd", value, SUM) for value in ("'1'", "-0.01", "nan")),
    argument("replay", "'no'", "True, False or None"),
    python("await agenerate('a fox', num_images=3)", "num_images", "3", COUNTS),
    python("current().begin('a fox', tags=7)", "tags", "7", '["draft"]'),
    python("current().resume(timeout_s=-1)", "timeout_s", "-1", SECONDS),
    python("current().run('nope')", "run", "'nope'", "history"),
    python("resume('nope')", "run", "'nope'", "history"),
    python("export_csv(None)", "table", "None", FILE, "ApixoError"),
    python("export_csv('')", "table", "to .", FILE, "ApixoError"),
    python("export_csv('a\\x00b.csv')", "table", "a\\u0000b.csv", FILE, "ApixoError"),
    callback(None, "None"),
    callback("http://example.com/hook", "http://example.com/hook"),
    callback("https://10.0.0.7/hook", "https://10.0.0.7/hook"),
    callback("https://me@example.com/hook", "example.com/hook"),
    callback(f"https://example.com/{'x' * 3000}", "https://example.com/xx", "2000 characters"),
    python("Client(5)", "API key", "", "text", CONFIGURATION),
    secret(f"Client(b'{SECRET}')", "text"),
    secret(f"Client('a {SECRET}')", "ASCII"),
    secret(f"Session(key='{SECRET}\\u00a0{SECRET}')", "ASCII"),
    python("Client('')", "API key", "empty", "Copy the key again", CONFIGURATION),
    python("Client(base_url=5)", "base_url", "5", BASE, SETTING),
    python("Client(base_url='http://example.com')", "base_url", "'http://example.com'", BASE, SETTING),
    *(
        python(f"Client(request_timeout_s={v})", "request_timeout_s", v, SECONDS)
        for v in ("0", "nan", "'60'")
    ),
    *(python(f"Client().status({value})", "task_id", value, "taskId") for value in ("''", "None", "5")),
    *(python(f"Client().wait({value})", "task_id", value, "taskId") for value in ("''", "None", "5")),
    python("Client().status('\\ud800')", "task_id", "\\ud800", "taskId"),
    *(
        python(f"Client().wait('t', timeout_s={v})", "timeout_s", v, "a number of sec")
        for v in ("'60'", "nan", "-1")
    ),
    python("Client().status('task_1', model='x')", "model", "'x'", "gpt-image-1"),
    python("Client().download('ftp://a.example', 'b')", "address", "'ftp://a.example", "http", "ImageError"),
    python("Client().download(5, 'b')", "address", "5", "http", "ImageError"),
    python("Client().download(URL, '')", "file", "", "Give a file name", "ImageError"),
    python("Client().download(URL, None)", "file", "None", "Give a file name", "ImageError"),
    python(_NOBODY, "APIXO_BASE_URL", "127.0.0.1:<port>", "Check the network", "APIConnectionError"),
]

_REAL = "Client(base_url='https://apixo.invalid').submit('a fox')"
_PROXY = {"HTTPS_PROXY": "carrier-pigeon://roof"}
_POSTGRES = f"postgresql+psycopg://me:{SECRET}@127.0.0.1:<port>/runs"

BAD_SETTINGS = [
    configured("base_url", "'api.apixo.ai'", BASE),
    configured("base_url", "''", BASE),
    configured("home", "''", "a folder"),
    configured("images", "'s3://bucket/pictures'", "a folder on this machine"),
    configured("first_poll", "-1.0", SUM),
    configured("first_poll", "'20s'", "float", "TraitError"),
    configured("poll_interval", "0.0", INTERVAL),
    configured("request_timeout", "nan", INTERVAL),
    configured("timeout", "inf", INTERVAL),
    configured("unit_price_usd", "-0.35", "a price in US dollars, 0 or more"),
    configured("unit_price_usd", "1e+300", "a price in US dollars"),
    configured("unit_price_usd", "'0.35'", "float", "TraitError"),
    configured("sandbox", "'yes'", "boolean", "TraitError"),
    configured("replay", "2", "boolean", "TraitError"),
    configured("home", "5", "unicode string", "TraitError"),
    configured("tiemout", "", "Did you mean `timeout`?", "UserWarning"),
    python("settings().timeout = -5", "Apixo.timeout", "-5.0", INTERVAL, SETTING),
    python("settings().home = 'a\\x00b'", "Apixo.home", "a\\x00b", "a folder", SETTING),
    *map(base_url, ("api.apixo.ai", "ftp://api.apixo.ai", "https://", "http://api.apixo.ai")),
    *map(base_url, ("https://a.example/api/v1/api/v1", "https://a.example/v2", "https://a.example:99999")),
    base_url("https://api.apixo.ai\\@evil.example", "evil.example"),
    base_url("https://api.apixo.ai/a b", "/a b'"),
    base_url(f"https://me:{SECRET}@api.apixo.ai", "api.apixo.ai", "without user"),
    base_url(f"https://api.apixo.ai?key={SECRET}", "api.apixo.ai", "query"),
    *(variable("APIXO_FIRST_POLL", v, f"'{v}'", SUM) for v in ("-1", "nan", "inf", "20s", "1,5", "1e400")),
    *(variable("APIXO_POLL_INTERVAL", v, f"'{v}'", INTERVAL) for v in ("0", "-1", "0,5", "fast")),
    BadInput("HTTPS_PROXY", SETTINGS, _REAL, "HTTPS_PROXY", "", "cannot be used", CONFIGURATION, _PROXY),
    variable("APIXO_SANDBOX", "maybe", "'maybe'", "1 or 0"),
    variable("APIXO_IMAGES", "s3://bucket/pictures", "'s3://bucket/pictures'", "a folder on this machine"),
    variable("APIXO_IMAGES", "<file>", "<file>", "another folder", "StorageError"),
    variable("APIXO_IMAGES", "<file>/pictures", "<file>/pictures", "another folder", "StorageError"),
    variable("APIXO_HOME", "<file>", "<file>", FOLDER, "LedgerError"),
    variable("APIXO_HOME", "<file>/runs", "<file>/runs", FOLDER, "LedgerError"),
    variable("APIXO_HOME", "<folder>/" + "x" * 300, "xxxx", FOLDER, "LedgerError"),
    variable("APIXO_LEDGER", "runs.db", "at the address given", "an SQLAlchemy URL", "LedgerError"),
    variable("APIXO_LEDGER", "nosuch://host/runs", "nosuch://host/runs", "an SQLAlchemy URL", "LedgerError"),
    variable("APIXO_LEDGER", "sqlite:///<file>/runs.db", "<file>/runs.db", FOLDER, "LedgerError"),
    variable("APIXO_LEDGER", _POSTGRES, "127.0.0.1:<port>/runs", "Check APIXO_LEDGER", "LedgerError"),
    variable("APIXO_API_KEY", "", "", "%apixo login", "MissingKeyError"),
    variable("APIXO_API_KEY", " \t ", "", "%apixo login", "MissingKeyError"),
    key("the placeholder", "YOUR_API_KEY"),
    key("nothing but quotes", '""'),
    key("nothing but Bearer", "Bearer"),
    key("two words", f"{SECRET} {SECRET}"),
    key("two lines", f"{SECRET}\n{SECRET}"),
    key("no-break space", f"sk\u00a0{SECRET}"),
    key("Cyrillic", f"ѕk-{SECRET}"),  # noqa: RUF001 - its first letter is not an s
    key("whole header", f"Authorization: Bearer {SECRET}"),
    key("10 kB", SECRET * 500),
]

BAD_INPUTS = [*BAD_CELLS, *BAD_LINES, *BAD_CALLS, *BAD_SETTINGS]


# --- what is put right ---------------------------------------------------------------------------------


def home(name: str, folder: str) -> Forgiven:
    return Forgiven(name, SETTINGS, GOOD, variables={"APIXO_HOME": folder})


def pasted(name: str, text: str) -> Forgiven:
    """A key with something around it."""
    return Forgiven(f"key, {name}", SETTINGS, GOOD, variables={"APIXO_API_KEY": text})


FORGIVEN = [
    Forgiven("prompt of exactly the limit", CELL, "%%apixo\n" + "x" * 10_000),
    Forgiven("value with braces is not filled again", CELL, "%%apixo\n{braces}"),
    Forgiven("lines end as on Windows", CELL, "%%apixo\n\r\na fox\r\n---\r\na cat\r\n", 2),
    Forgiven("tab between options", CELL, "%%apixo -n 1\t--ar 3:2\na fox"),
    Forgiven("sum with a dollar sign", CELL, "%%apixo --max-cost $1\na fox"),
    Forgiven("sum beyond all sums", CELL, "%%apixo --max-cost 1e308\na fox"),
    Forgiven("same reference twice", CELL, f"%%apixo --ref {URL} --ref {URL}\na fox", says="twice"),
    Forgiven("note of 1 MB", PYTHON, "generate('a fox', note='x' * 1_000_000)"),
    Forgiven("tag with comma and newline", PYTHON, "generate('a fox', tags=['a,b\\nc'])"),
    Forgiven("file name in quotes", LINE, '%apixo export "<folder>/my runs.csv"', 0, "my runs.csv"),
    home("home with blanks and emoji", "<folder>/my pictures 🦊"),
    home("home that is not there yet", "<folder>/a/b/c"),
    pasted("blank and newline", f" {SECRET}\n"),
    pasted("quotes", f'"{SECRET}"'),
    pasted("Bearer", f"Bearer {SECRET}"),
]
