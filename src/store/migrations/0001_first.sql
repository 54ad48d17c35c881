-- Times are UTC milliseconds since 1970, JSON is text, vectors are f32 little-endian. The same text
-- runs on SQLite and PostgreSQL, where BLOB is replaced by BYTEA.

CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('task_number', 0), ('probe', 0);

CREATE TABLE tasks (
    task_id TEXT PRIMARY KEY,
    number BIGINT NOT NULL UNIQUE,
    route TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    status TEXT NOT NULL,
    progress DOUBLE PRECISION NOT NULL,
    current_step TEXT NOT NULL,
    cameras TEXT NOT NULL,
    request TEXT NOT NULL,
    error TEXT,
    created_ms BIGINT NOT NULL,
    started_ms BIGINT,
    ended_ms BIGINT,
    next_seq BIGINT NOT NULL
);
CREATE INDEX tasks_environment ON tasks (environment_id, number);
CREATE INDEX tasks_ended ON tasks (ended_ms);

CREATE TABLE tracks (
    task_id TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
    camera_id TEXT NOT NULL,
    track_id BIGINT NOT NULL,
    global_id BIGINT,
    first_frame BIGINT NOT NULL,
    last_frame BIGINT NOT NULL,
    first_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    PRIMARY KEY (task_id, camera_id, track_id)
);
CREATE INDEX tracks_person ON tracks (global_id) WHERE global_id IS NOT NULL;

CREATE TABLE positions (
    task_id TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
    camera_id TEXT NOT NULL,
    frame BIGINT NOT NULL,
    track_id BIGINT NOT NULL,
    time_ms BIGINT NOT NULL,
    global_id BIGINT,
    x1 DOUBLE PRECISION NOT NULL,
    y1 DOUBLE PRECISION NOT NULL,
    x2 DOUBLE PRECISION NOT NULL,
    y2 DOUBLE PRECISION NOT NULL,
    score DOUBLE PRECISION NOT NULL,
    map_x DOUBLE PRECISION,
    map_y DOUBLE PRECISION,
    PRIMARY KEY (task_id, camera_id, frame, track_id)
);
CREATE INDEX positions_person ON positions (global_id, time_ms) WHERE global_id IS NOT NULL;
CREATE INDEX positions_time ON positions (task_id, time_ms);

CREATE TABLE people (
    global_id BIGINT PRIMARY KEY,
    task_id TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
    environment_id TEXT NOT NULL,
    first_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    first_camera TEXT NOT NULL,
    last_camera TEXT NOT NULL,
    model TEXT,
    vector BLOB,
    crop BLOB,
    crop_quality DOUBLE PRECISION,
    merged_into BIGINT
);
CREATE INDEX people_task ON people (task_id);
CREATE INDEX people_environment ON people (environment_id, global_id);
CREATE INDEX people_merged ON people (merged_into) WHERE merged_into IS NOT NULL;

-- Numbers of people who were erased: rows of theirs that come later are not written.
CREATE TABLE erased (
    global_id BIGINT PRIMARY KEY,
    erased_ms BIGINT NOT NULL
);

CREATE TABLE handoffs (
    task_id TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
    handoff_id BIGINT NOT NULL,
    state TEXT NOT NULL,
    from_camera TEXT NOT NULL,
    to_camera TEXT,
    candidates TEXT,
    track_id BIGINT,
    global_id BIGINT,
    triggered_ms BIGINT,
    ended_ms BIGINT,
    confidence DOUBLE PRECISION,
    reason TEXT,
    PRIMARY KEY (task_id, handoff_id)
);
CREATE INDEX handoffs_person ON handoffs (global_id) WHERE global_id IS NOT NULL;

CREATE TABLE events (
    task_id TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
    seq BIGINT NOT NULL,
    time_ms BIGINT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (task_id, seq)
);

-- Whom an event names, so that it can be erased with them.
CREATE TABLE event_people (
    task_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    global_id BIGINT NOT NULL,
    PRIMARY KEY (global_id, task_id, seq),
    FOREIGN KEY (task_id, seq) REFERENCES events (task_id, seq) ON DELETE CASCADE
);
CREATE INDEX event_people_event ON event_people (task_id, seq);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    hash TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    revoked_ms BIGINT
);

CREATE TABLE idempotency (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    status BIGINT NOT NULL,
    response TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_age ON idempotency (created_ms);
