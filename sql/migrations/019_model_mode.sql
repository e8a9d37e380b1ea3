-- Which job made a model: the week of its time, or a backfill, whose labels may have been corrected since. NULL: of before.
ALTER TABLE metarisk.model ADD COLUMN mode TEXT;
