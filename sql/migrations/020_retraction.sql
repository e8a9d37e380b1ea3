-- A night that a person took back: the next publication of its as_of, whose run is none.
ALTER TABLE metarisk.publication ALTER COLUMN run_id DROP NOT NULL;
