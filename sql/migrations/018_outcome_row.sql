-- Which row an outcome is of, which night told it, and which telling of that row it is: a correction is the next one.
ALTER TABLE metarisk.outcome ADD COLUMN opened_on DATE;
ALTER TABLE metarisk.outcome ADD COLUMN as_of DATE;
ALTER TABLE metarisk.outcome ADD COLUMN seq INTEGER;
