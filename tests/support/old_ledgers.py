"""The statements that make a ledger of an older version."""

from __future__ import annotations

#: The tables of version 1, word for word as it made them; {time}, {json} and {yes} differ with the database.
VERSION_1 = """
CREATE TABLE runs (
 run_id VARCHAR(64) NOT NULL, task_id TEXT, created_at {time} NOT NULL, submitted_at {time},
 finished_at {time}, expires_at {time}, model TEXT NOT NULL, mode TEXT NOT NULL, prompt TEXT NOT NULL,
 prompt_template TEXT NOT NULL, variables JSON NOT NULL, aspect_ratio TEXT NOT NULL,
 num_images INTEGER NOT NULL, parameters JSON NOT NULL, image_urls JSON NOT NULL,
 request_type TEXT NOT NULL, callback_url TEXT, state TEXT NOT NULL, cost_time_ms BIGINT, wait_ms BIGINT,
 unit_price_micros BIGINT NOT NULL, cost_micros BIGINT, fail_code TEXT NOT NULL, fail_msg TEXT NOT NULL,
 result_urls JSON NOT NULL, name TEXT NOT NULL, tags JSON NOT NULL, note TEXT NOT NULL, rating INTEGER,
 sandbox BOOLEAN NOT NULL, digest VARCHAR(64) NOT NULL, take INTEGER NOT NULL, raw TEXT NOT NULL,
 schema_version INTEGER NOT NULL, PRIMARY KEY (run_id));
CREATE INDEX ix_runs_created_at ON runs (created_at);
CREATE INDEX ix_runs_task_id ON runs (task_id);
CREATE INDEX ix_runs_digest ON runs (digest);
CREATE INDEX ix_runs_state ON runs (state);
CREATE TABLE images (
 run_id VARCHAR(64) NOT NULL, "index" INTEGER NOT NULL, url TEXT NOT NULL, file TEXT NOT NULL,
 sha256 VARCHAR(64) NOT NULL, bytes BIGINT, width INTEGER, height INTEGER, format TEXT NOT NULL,
 error TEXT NOT NULL, PRIMARY KEY (run_id, "index"), FOREIGN KEY(run_id) REFERENCES runs (run_id));
CREATE TABLE meta ("key" VARCHAR(50) NOT NULL, value TEXT NOT NULL, PRIMARY KEY ("key"));
INSERT INTO meta VALUES ('schema_version', '1');
"""
#: What version 2 had besides.
VERSION_2 = """
ALTER TABLE runs ADD COLUMN notebook TEXT DEFAULT '' NOT NULL;
ALTER TABLE runs ADD COLUMN owner VARCHAR(32);
ALTER TABLE runs ADD COLUMN missing INTEGER DEFAULT 0 NOT NULL;
CREATE INDEX ix_runs_missing ON runs (missing);
CREATE TABLE owners (
 id VARCHAR(32) NOT NULL, host TEXT NOT NULL, pid BIGINT NOT NULL, started TEXT NOT NULL,
 heartbeat_at {time} NOT NULL, PRIMARY KEY (id));
CREATE TABLE budgets (
 scope VARCHAR(400) NOT NULL, sandbox BOOLEAN NOT NULL, limit_micros BIGINT NOT NULL, set_at {time} NOT NULL,
 PRIMARY KEY (scope, sandbox));
CREATE TABLE balances (
 seen_at {time} NOT NULL, sandbox BOOLEAN NOT NULL, micros BIGINT NOT NULL, PRIMARY KEY (seen_at, sandbox));
CREATE TABLE migrations (
 version INTEGER NOT NULL, name TEXT NOT NULL, applied_at {time} NOT NULL, PRIMARY KEY (version));
UPDATE meta SET value = '2';
"""
#: What versions 3 and 4 had besides; the last part on SQLite only.
VERSION_4 = """
ALTER TABLE images ADD COLUMN rating INTEGER;
ALTER TABLE images ADD COLUMN starred BOOLEAN DEFAULT {no} NOT NULL;
ALTER TABLE images ADD COLUMN note TEXT DEFAULT '' NOT NULL;
ALTER TABLE images ADD COLUMN tags JSON DEFAULT '[]' NOT NULL;
CREATE TABLE votes (
 vote_id VARCHAR(32) NOT NULL, voted_at {time} NOT NULL, ballot TEXT NOT NULL, left_run VARCHAR(64) NOT NULL,
 left_index INTEGER NOT NULL, right_run VARCHAR(64) NOT NULL, right_index INTEGER NOT NULL,
 outcome VARCHAR(8) NOT NULL, PRIMARY KEY (vote_id));
CREATE INDEX ix_votes_voted_at ON votes (voted_at);
CREATE INDEX ix_runs_made ON runs (created_at, sandbox);
UPDATE meta SET value = '4';
"""
VERSION_4_SQLITE = """
CREATE TABLE unsearched (run_id VARCHAR(64) NOT NULL, PRIMARY KEY (run_id));
CREATE TRIGGER new_run AFTER INSERT ON runs WHEN (1) AND new.run_id NOT IN unsearched
 BEGIN INSERT INTO unsearched VALUES (new.run_id); END;
CREATE TRIGGER changed_run AFTER UPDATE OF prompt, prompt_template, name, note, run_id, fail_code, fail_msg,
 task_id, tags ON runs WHEN (old.prompt IS NOT new.prompt OR old.prompt_template IS NOT new.prompt_template
 OR old.name IS NOT new.name OR old.note IS NOT new.note OR old.run_id IS NOT new.run_id
 OR old.fail_code IS NOT new.fail_code OR old.fail_msg IS NOT new.fail_msg OR old.task_id IS NOT new.task_id
 OR old.tags IS NOT new.tags) AND new.run_id NOT IN unsearched
 BEGIN INSERT INTO unsearched VALUES (new.run_id); END;
CREATE TRIGGER new_picture AFTER INSERT ON images WHEN (new.note <> '' OR new.tags <> '[]')
 AND new.run_id NOT IN unsearched BEGIN INSERT INTO unsearched VALUES (new.run_id); END;
CREATE TRIGGER changed_picture AFTER UPDATE OF note, tags ON images
 WHEN (old.note IS NOT new.note OR old.tags IS NOT new.tags) AND new.run_id NOT IN unsearched
 BEGIN INSERT INTO unsearched VALUES (new.run_id); END;
CREATE TRIGGER gone_picture AFTER DELETE ON images WHEN (1) AND old.run_id NOT IN unsearched
 BEGIN INSERT INTO unsearched VALUES (old.run_id); END;
"""
ROW = """
INSERT INTO runs ({columns})
 VALUES ('{id}', {task}, '2026-11-23 12:00:00.123456', NULL, NULL, NULL, 'gpt-image-1',
 'gpt-image-1', 'a fox 🦊', 'a {{it}}', '{{"it": "fox 🦊"}}', '1:1', 1,
 '{{"aspect_ratio": "1:1", "num_images": 1}}', '[]', 'async', NULL, '{state}', 30000, NULL, 350000, {cost},
 '', 'd''oh', '{urls}', 'foxes', '["red", "grün"]', 'a note', 4, {yes}, 'digest', {take},
 '{{"state": "x"}}', 1);
"""
COLUMNS = """
run_id, task_id, created_at, submitted_at, finished_at, expires_at, model, mode, prompt, prompt_template,
 variables, aspect_ratio, num_images, parameters, image_urls, request_type, callback_url, state, cost_time_ms,
 wait_ms, unit_price_micros, cost_micros, fail_code, fail_msg, result_urls, name, tags, note, rating, sandbox,
 digest, take, raw, schema_version"""
PICTURE = """
INSERT INTO images (run_id, "index", url, file, sha256, bytes, width, height, format, error)
 VALUES ('{id}', {index}, 'u{index}', '{file}', 'ab', 7, 1, 2, 'PNG', '{error}');
"""
TWO = '["u0", "u1"]'
#: State, cost, addresses, files on disk, and what is missing then.
ROWS: list[tuple[str, int | None, str, tuple[str, ...], int]] = [
    ("planned", None, "[]", (), 0),
    ("submitting", None, "[]", (), 0),
    ("submitted", None, "[]", (), 0),
    ("processing", None, "[]", (), 0),
    ("unknown", None, "[]", (), 0),
    ("timeout", None, "[]", (), 0),
    ("failed", 0, "[]", (), 0),
    ("success", 350_000, TWO, ("a.png", "b.png"), 0),
    ("success", 350_000, TWO, ("c.png", ""), 1),
    ("success", 350_000, TWO, (), 2),
    ("success", 350_000, "[]", (), 1),
]
WITHOUT_A_TASK = ("planned", "submitting", "unknown")


def older(version: str, *, dialect: str = "sqlite") -> list[str]:
    """The statements that make a ledger of version 1, 2 or 4, and fill it."""
    kinds = (
        {"time": "DATETIME", "yes": "1", "no": "0"}
        if dialect == "sqlite"
        else {"time": "TIMESTAMPTZ", "yes": "true", "no": "false"}
    )
    parts = {"1": VERSION_1, "2": VERSION_2, "4": VERSION_4}
    text = "".join(part for since, part in parts.items() if since <= version).format(**kinds)
    if version == "4" and dialect == "sqlite":
        text += VERSION_4_SQLITE
    for number, (state, cost, urls, files, missing) in enumerate(ROWS):
        task = "NULL" if state in WITHOUT_A_TASK else f"'task_{number}'"
        facts = {"state": state, "task": task, "cost": "NULL" if cost is None else cost, "urls": urls}
        facts |= {"yes": kinds["yes"], "columns": COLUMNS}
        text += ROW.format(id=f"run{number:02}", take=number + 1, **facts)
        if version >= "2" and missing:
            text += f"UPDATE runs SET missing = {missing} WHERE run_id = 'run{number:02}';\n"
        for index, file in enumerate(files):
            text += PICTURE.format(id=f"run{number:02}", index=index, file=file, error="" if file else "gone")
    return [statement for statement in text.split(";\n") if statement.strip()]
