-- Groups to which a person gives users: CREATE ROLE name LOGIN PASSWORD '...' IN ROLE metarisk_bi. Who migrates may not be
-- allowed to make them; then a person makes them, and the next start of the job grants them their rights.
DO $$
DECLARE
    role TEXT;
BEGIN
    FOREACH role IN ARRAY ARRAY['metarisk_bi', 'metarisk_writer', 'metarisk_auditor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN RAISE NOTICE 'role % was not made: %', role, SQLERRM;
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

-- A writer appends and owns nothing: the partition of a month is made for it. ATTACH lets readers and writers of the table
-- go on, which CREATE TABLE ... PARTITION OF does not. An empty partition that outlives a failed append does no harm.
CREATE OR REPLACE FUNCTION metarisk.make_partition(whole REGCLASS, month DATE) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    schema TEXT := (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = whole);
    part TEXT := (SELECT c.relname FROM pg_class c WHERE c.oid = whole) || to_char(month, '_YYYY_MM');
BEGIN
    IF schema <> 'metarisk' THEN
        RAISE EXCEPTION '% is not a table of the schema metarisk', whole;
    END IF;
    IF to_regclass(format('%I.%I', schema, part)) IS NULL THEN
        EXECUTE format('CREATE TABLE %I.%I (LIKE %s INCLUDING ALL)', schema, part, whole);
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I.%I FOR VALUES FROM (%L) TO (%L)', whole, schema, part,
            date_trunc('month', month)::DATE, (date_trunc('month', month) + INTERVAL '1 month')::DATE);
    END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION metarisk.make_partition(REGCLASS, DATE) FROM PUBLIC;
