CREATE SCHEMA IF NOT EXISTS metarisk;

CREATE TABLE metarisk.schema_migration (
    version     INTEGER     NOT NULL PRIMARY KEY,
    name        TEXT        NOT NULL,
    checksum    TEXT        NOT NULL,
    applied_at  TIMESTAMPTZ NOT NULL
);

CREATE TABLE metarisk.view_set (
    seq         INTEGER     NOT NULL PRIMARY KEY,
    checksum    TEXT        NOT NULL,
    applied_at  TIMESTAMPTZ NOT NULL
);
